"""One recipe judged by itself over folds and seeds: what the commands ``folds`` and ``chrcluster`` share."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash
from supcam.errors import SupcamError, UsageError, explained
from supcam.experiments.jobs import Job, JobContext
from supcam.experiments.parts import Fold
from supcam.experiments.pool import JobCounts, run_jobs
from supcam.experiments.rows import with_seed
from supcam.experiments.runner import origin
from supcam.experiments.table import Answers, gather, subset_metrics, write_predictions
from supcam.files import write_text
from supcam.progress import Progress
from supcam.settings import Settings


def judge_recipe(
    kind: str,
    crops: CropSet,
    folds: Sequence[Fold],
    settings: Settings,
    root: Path,
    *,
    seeds: int,
    workers: int,
    into: Path,
    details: Callable[[Answers], dict[str, Any]],
    progress: Progress | None = None,
) -> tuple[dict[str, Any], JobCounts]:
    """Train the recipe of the settings on every fold for several seeds and judge the crops that each fold holds out.

    Args:
        kind: Name of the run, of the folder below ``state`` that keeps finished jobs, and of the JSON file.
        crops: All crops.
        folds: Which of them a job trains on and is judged on.
        settings: All settings; ``runtime.seed`` is the first seed.
        root: Project root.
        seeds: Number of seeds.
        workers: Processes.
        into: Folder for ``KIND.json`` and ``predictions.csv``.
        details: What this kind of result holds besides origin, seeds, settings and metrics.
        progress: Called with the number of finished jobs and of all.

    Raises:
        UsageError: for settings or crops that cannot be trained on.
        SupcamError: when a job failed.
    """
    first = settings.runtime.seed
    jobs = [Job("recipe", with_seed(settings, seed), fold) for seed in range(first, first + seeds) for fold in folds]
    with tracking.stage_run(kind, root, settings) as run:
        context = JobContext(crops, root / "state" / kind, root, (run.run_id, run.experiment_id))
        counts = run_jobs(jobs, context, workers, progress)
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


def from_one(text: str) -> int:
    """Read a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed are whole numbers from 1")
    return int(text)


def overrides(texts: Sequence[str]) -> dict[str, str]:
    """Read the values of ``--set``, each ``section.key=value``.

    Raises:
        UsageError: for anything else.
    """
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or "." not in name:
            raise UsageError(
                f"--set {text!r} is not of the form section.key=value, such as pretrain.epochs=5. Correct it."
            )
        found[name] = value
    return found


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors that users cause into one line on stderr and their exit code."""
    try:
        yield
    except (SupcamError, OSError) as error:
        ours = explained(error)
        sys.stderr.write(f"error: {ours}\n")
        sys.exit(ours.exit_code)


def print_line(**values: object) -> None:
    """Print values as one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
