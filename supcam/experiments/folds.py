"""Out-of-fold metrics of the recipe on the crops in data/: python -m supcam.experiments.folds --help."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash, read_manifest
from supcam.errors import SupcamError, UsageError, explained
from supcam.experiments.cells import Bench, Cell, RunReport, run_cells
from supcam.experiments.parts import grouped_folds, links_of
from supcam.experiments.results import folds_section, put_section
from supcam.experiments.rows import with_seed
from supcam.experiments.runner import origin
from supcam.experiments.table import Answers, gather, subset_figures, write_predictions
from supcam.files import write_text
from supcam.settings import Settings, load_settings, profile_path

FIGURES = "folds.json"


def run_folds(
    root: Path, settings: Settings, *, folds: int, seeds: int, workers: int, into: Path
) -> tuple[dict[str, Any], RunReport]:
    """Train on all folds but one, ``folds`` times for each of ``seeds`` seeds, and judge all crops out of fold.

    Margin and temperature are those of the settings: a study on these data would have seen the held-out cases.
    Writes ``folds.json`` and ``predictions.csv`` below ``into``. Finished folds in ``state/folds`` are not run again.

    Raises:
        UsageError: for data that were not validated, or settings that cannot be trained on.
        SupcamError: when a fold failed.
    """
    frame = read_manifest(root / "data" / "manifest.csv")
    parts = grouped_folds(frame, settings.split, folds, linked=links_of(root, frame))
    crops = CropSet.load(frame, root / "data")
    first = settings.runtime.seed
    cells = [Cell("recipe", with_seed(settings, seed), part) for seed in range(first, first + seeds) for part in parts]
    with tracking.stage_run("folds", root, settings) as run:
        bench = Bench(crops, root / "state" / "folds", root, (run.run_id, run.experiment_id))
        report = run_cells(cells, bench, workers, _told)
        answers = gather(cells, bench)
        if answers is None:
            told = "; ".join(f"{name}: {error}" for name, error in report.failed.items())
            raise SupcamError(f"{len(report.failed)} of {len(cells)} cells failed: {told}. Correct it and run again.")
        content = _content(root, settings, answers, folds)
        write_text(into / FIGURES, json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_predictions(answers, into / "predictions.csv")
        run.log_artifacts(into, "folds")
        whole = content["subsets"]["all crops"]
        run.log({name: whole[name]["value"] for name in ("accuracy", "macro_sensitivity")})
    return content, report


def _content(root: Path, settings: Settings, answers: Answers, folds: int) -> dict[str, Any]:
    frame = answers.frame
    return {
        "kind": "folds",
        "origin": origin(root, answers.results[0].device),
        "manifest_hash": manifest_hash(frame),
        "folds": folds,
        "seeds": len(answers.logits),
        "seconds_per_fold": answers.seconds(),
        "processor_seconds_per_fold": answers.seconds("processor"),
        "settings": settings.model_dump(mode="json", by_alias=True),
        "subsets": subset_figures(answers, settings.evaluate),
    }


def _told(done: int, total: int) -> None:
    sys.stdout.write(json.dumps({"name": "folds_done", "value": done, "unit": "cells", "of": total}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run, write the figures, and with ``--docs`` the section of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=from_one, default=5)
    parser.add_argument("--seeds", type=from_one, default=1, help="more seeds later reuse those that are finished")
    parser.add_argument("--workers", type=from_one, default=1, help="processes, each with runtime.threads threads")
    parser.add_argument("--profile", default="", help="such as real; default: params.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="settings for this run")
    parser.add_argument("--into", type=Path, default=Path("reports/folds"))
    parser.add_argument("--docs", action="store_true", help="write the section of docs/results.md")
    options = parser.parse_args()
    tracking.quiet()
    try:
        root = tracking.project_root()
        path = profile_path(options.profile) if options.profile else root / "params.yaml"
        settings = load_settings(path, dict(pair(text) for text in options.set))
        content, report = run_folds(
            root, settings, folds=options.folds, seeds=options.seeds, workers=options.workers, into=root / options.into
        )
        if options.docs:
            put_section(root / "docs" / "results.md", "folds", folds_section(content))
    except (SupcamError, OSError) as error:
        told = explained(error)
        sys.stderr.write(f"error: {told}\n")
        sys.exit(told.exit_code)
    for name, figures in content["subsets"].items():
        for figure in ("accuracy", "macro_sensitivity"):
            told_figures = {key: figures[figure][key] for key in ("value", "low", "high")}
            row = {"name": figure, **told_figures, "unit": "share", "subset": name, "crops": figures["crops"]}
            sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.write(json.dumps({"name": "cells_kept", "value": report.kept, "unit": "cells"}) + "\n")


def from_one(text: str) -> int:
    """Read a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed are whole numbers from 1")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """Read ``section.key=value``.

    Raises:
        UsageError: for anything else.
    """
    name, sign, value = text.partition("=")
    if not sign or "." not in name:
        raise UsageError(f"--set {text!r} is not of the form section.key=value, such as pretrain.epochs=5. Correct it.")
    return name, value


if __name__ == "__main__":
    main()
