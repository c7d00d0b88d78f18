"""One recipe judged by itself over folds and seeds: what the commands ``folds`` and ``chrcluster`` share."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash
from supcam.errors import SupcamError, UsageError
from supcam.experiments.jobs import Job, JobContext
from supcam.experiments.parts import Fold
from supcam.experiments.pool import JobCounts, run_jobs
from supcam.experiments.rows import with_seed
from supcam.experiments.runner import origin
from supcam.experiments.table import Answers, gather, subset_metrics, write_predictions
from supcam.files import write_text
from supcam.progress import Progress
from supcam.settings import Settings, load_settings, profile_path


@dataclass(frozen=True)
class Recipe:
    """What is judged: seeds from ``runtime.seed`` of the settings on, in several processes, results in a folder."""

    root: Path
    settings: Settings
    into: Path
    seeds: int = 1
    workers: int = 1


def judge_recipe(
    kind: str,
    recipe: Recipe,
    crops: CropSet,
    folds: Sequence[Fold],
    details: Callable[[Answers], dict[str, Any]],
    progress: Progress | None = None,
) -> tuple[dict[str, Any], JobCounts]:
    """Train the recipe on every fold for every seed and judge the crops that each fold holds out.

    Writes ``KIND.json`` and ``predictions.csv``; the kind also names the run and the folder below ``state`` that keeps
    finished jobs. ``details`` gives what this kind of result holds besides origin, seeds, settings and metrics.

    Raises:
        UsageError: for settings or crops that cannot be trained on.
        SupcamError: when a job failed.
    """
    root, settings, into, seeds = recipe.root, recipe.settings, recipe.into, recipe.seeds
    first = settings.runtime.seed
    jobs = [Job("recipe", with_seed(settings, seed), fold) for seed in range(first, first + seeds) for fold in folds]
    with tracking.stage_run(kind, root, settings) as run:
        context = JobContext(crops, root / "state" / kind, (root, run.run_id, run.experiment_id))
        counts = run_jobs(jobs, context, recipe.workers, progress)
        answers = gather(jobs, context)
        if answers is None:
            reasons = "; ".join(f"{name}: {error}" for name, error in counts.failed.items())
            raise SupcamError(f"{len(counts.failed)} of {len(jobs)} jobs failed: {reasons}. Correct it and run again.")
        content = {
            "kind": kind,
            "origin": origin(root, answers.results[0].device),
            "manifest_hash": manifest_hash(crops.frame),
            "seeds": seeds,
            **details(answers),
            "settings": settings.model_dump(mode="json", by_alias=True),
            "subsets": subset_metrics(answers, settings.evaluate),
        }
        write_text(into / f"{kind}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_predictions(answers, into / "predictions.csv")
        for name in (f"{kind}.json", "predictions.csv"):
            run.log_artifact(into / name, kind)
        whole = content["subsets"]["all crops"]
        run.log({name: whole[name]["value"] for name in ("accuracy", "macro_sensitivity")})
    return content, counts


def add_options(parser: argparse.ArgumentParser, into: str) -> None:
    """Add the options of both commands; results go below ``into`` by default."""
    parser.add_argument("--seeds", type=from_one, default=1, help="more seeds later reuse those that are finished")
    parser.add_argument("--workers", type=from_one, default=1, help="processes, each with runtime.threads threads")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="settings for this run")
    parser.add_argument("--into", type=Path, default=Path(into))


def read_recipe(options: argparse.Namespace, profile: str) -> Recipe:
    """The recipe of the options that both commands have and of a profile, or of params.yaml where that is empty."""
    root = tracking.project_root()
    settings = load_settings(profile_path(profile) if profile else root / "params.yaml", overrides(options.set))
    return Recipe(root, settings, root / options.into, options.seeds, options.workers)


def from_one(text: str) -> int:
    """Read a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed are whole numbers from 1")
    return int(text)


def overrides(texts: Sequence[str]) -> dict[str, str]:
    """Read the values of ``--set``; a UsageError for one that is not of the form ``section.key=value``."""
    for text in texts:
        if "." not in text.partition("=")[0] or "=" not in text:
            form = "section.key=value, such as pretrain.epochs=5"
            raise UsageError(f"--set {text!r} is not of the form {form}. Correct it.")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def print_line(**values: object) -> None:
    """Print values as one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
