"""Out-of-fold metrics of the recipe on the crops in data/: python -m supcam.experiments.folds --help."""

import argparse
from typing import Any

from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.experiments.parts import grouped_folds, links_of
from supcam.experiments.pool import JobCounts
from supcam.experiments.results import put_file
from supcam.experiments.single import Recipe, add_options, from_one, judge_recipe, print_line, read_recipe
from supcam.experiments.table import Answers
from supcam.stages.command import exit_codes


def run_folds(recipe: Recipe, folds: int) -> tuple[dict[str, Any], JobCounts]:
    """Train on all folds but one, ``folds`` times for each seed, and judge all crops out of fold.

    Margin and temperature are those of the settings: a study on these data would have seen the held-out cases.
    Writes ``folds.json`` and ``predictions.csv``. Finished folds in ``state/folds`` are not run again.

    Raises:
        UsageError: for data that were not validated, or settings that cannot be trained on.
        SupcamError: when a fold failed.
    """
    data = recipe.root / "data"
    frame = read_manifest(data / "manifest.csv")
    divided = grouped_folds(frame, recipe.settings.split, folds, linked=links_of(recipe.root, frame))

    def details(answers: Answers) -> dict[str, Any]:
        seconds = {"seconds_per_fold": answers.seconds(), "processor_seconds_per_fold": answers.seconds("processor")}
        return {"folds": folds, **seconds}

    def progress(done: int, total: int) -> None:
        print_line(name="folds_done", value=done, unit="cells", of=total)

    return judge_recipe("folds", recipe, CropSet.load(frame, data), divided, details, progress)


def main() -> None:
    """Run, write the results, and with ``--docs`` the section of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=from_one, default=5)
    parser.add_argument("--profile", default="", help="such as real; default: params.yaml")
    parser.add_argument("--docs", action="store_true", help="write the section of docs/results.md")
    add_options(parser, "reports/folds")
    options = parser.parse_args()
    tracking.quiet()
    with exit_codes():
        recipe = read_recipe(options, options.profile)
        content, counts = run_folds(recipe, options.folds)
        if options.docs:
            put_file(recipe.root / "docs" / "results.md", recipe.into / "folds.json")
    for subset, metrics in content["subsets"].items():
        for name in ("accuracy", "macro_sensitivity"):
            values = {key: metrics[name][key] for key in ("value", "low", "high")}
            print_line(name=name, **values, unit="share", subset=subset, crops=metrics["crops"])
    print_line(name="cells_kept", value=counts.kept, unit="cells")


if __name__ == "__main__":
    main()
