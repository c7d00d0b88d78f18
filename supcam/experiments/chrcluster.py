"""The paper's experiment on ChrCluster, or its proof on drawn crops: python -m supcam.experiments.chrcluster.

With the data set's zip it imports 6,592 crops, validates them, divides them by the protocol `paper` (80/10/10) and
trains and judges the recipe of the profile `chrcluster`. `--stand-in` draws as many crops of each type instead, in the
data set's form (a zip of folders 0-3), and needs nothing else.
"""

import argparse
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.crops import CropSet
from supcam.data.expectations import validate_crops
from supcam.data.importers import import_sources
from supcam.data.labels import CHRCLUSTER_COUNTS
from supcam.data.manifest import read_manifest
from supcam.data.reports import require_passed
from supcam.data.splits import split_manifest
from supcam.errors import UsageError
from supcam.experiments.parts import split_parts
from supcam.experiments.single import Recipe, add_options, judge_recipe, print_line, read_recipe
from supcam.experiments.table import Answers
from supcam.stages.command import exit_codes
from supcam.synthetic.sample import synthesize

_CASES = 40  # differently stained slides among the drawn crops


def draw_stand_in(out: Path, cases: int = _CASES, seed: int = 42) -> Path:
    """A zip of as many drawn crops of each type as ChrCluster has, in folders 0 to 3 as it comes."""
    counts = [CHRCLUSTER_COUNTS[label] for label in TYPE_LABELS]
    with TemporaryDirectory() as scratch:
        table = synthesize(Path(scratch) / "drawn", cases=cases, seed=seed, counts=counts)
        with zipfile.ZipFile(out, "w") as archive:
            for number, row in enumerate(table.itertuples()):
                folder = int(ClusterType.parse(str(row.type)))
                archive.write(Path(scratch) / "drawn" / str(row.path), f"{folder}/{number:04d}.png")
    return out


def run_experiment(archive: Path, recipe: Recipe) -> dict[str, Any]:
    """Import, validate, divide, train and judge; writes ``chrcluster.json`` and ``predictions.csv``.

    Raises:
        UsageError: for an archive that is not ChrCluster, or settings that cannot be trained on.
        SupcamError: when the data fail validation, or no training finished.
    """
    seconds: dict[str, float] = {}
    into = recipe.into
    with TemporaryDirectory() as scratch:
        start = time.perf_counter()
        data = Path(scratch) / "data"
        imported = import_sources([archive], data)
        if imported.types != CHRCLUSTER_COUNTS:
            raise UsageError(f"{archive} holds {imported.types}; ChrCluster has {CHRCLUSTER_COUNTS}. Give its zip.")
        frame = read_manifest(data / "manifest.csv")
        seconds["import"] = time.perf_counter() - start
        checked = validate_crops(frame, data, recipe.settings.validate_)
        require_passed(checked, into / "validation.json", data, into / "validation")
        seconds["validate"] = time.perf_counter() - start - seconds["import"]
        crops = CropSet.load(frame, data)
    divided, report = split_manifest(frame, recipe.settings.split, linked=checked.linked)
    folds = split_parts(frame, divided.set_index("crop_id")["split"])

    def details(answers: Answers) -> dict[str, Any]:
        split = {"hash": report.split_hash, "counts": report.counts}
        return {"split": split, "seconds": seconds | answers.results[0].seconds}

    return judge_recipe("chrcluster", recipe, crops, folds, details)[0]


def main() -> None:
    """Run the experiment and print its metrics as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("zip", nargs="?", type=Path, help="ChrCluster's zip")
    source.add_argument("--stand-in", action="store_true", help="draw the crops instead")
    add_options(parser, "reports/chrcluster")
    options = parser.parse_args()
    tracking.quiet()
    with exit_codes():
        recipe = read_recipe(options, "chrcluster")
        recipe.into.mkdir(parents=True, exist_ok=True)
        archive = draw_stand_in(recipe.into / "stand_in.zip") if options.stand_in else options.zip
        content = run_experiment(archive, recipe)
    for name in ("accuracy", "macro_sensitivity"):
        values = {key: content["subsets"]["all crops"][name][key] for key in ("value", "low", "high")}
        print_line(name=name, unit="share", **values)
    for step, seconds in content["seconds"].items():
        print_line(name=f"seconds_{step}", value=round(seconds, 1), unit="s")


if __name__ == "__main__":
    main()
