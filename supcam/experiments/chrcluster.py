"""The paper's experiment on ChrCluster, or its proof on drawn crops: python -m supcam.experiments.chrcluster.

With the data set's zip it imports 6,592 crops, validates them, divides them by the protocol `paper` (80/10/10) and
trains and judges the recipe of the profile `chrcluster`. `--stand-in` draws as many crops of each type instead, in the
data set's form (a zip of folders 0-3), and needs nothing else.
"""

import argparse
import json
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.crops import CropSet
from supcam.data.expectations import validate_crops
from supcam.data.gate import require_passed
from supcam.data.importers import import_sources
from supcam.data.labels import CHRCLUSTER_COUNTS
from supcam.data.manifest import manifest_hash, read_manifest
from supcam.data.splits import split_manifest
from supcam.errors import SupcamError, UsageError, explained
from supcam.experiments.cells import Bench, Cell, run_cells
from supcam.experiments.folds import from_one, pair
from supcam.experiments.parts import split_parts
from supcam.experiments.rows import with_seed
from supcam.experiments.runner import origin
from supcam.experiments.table import gather, subset_figures, write_predictions
from supcam.files import write_text
from supcam.settings import Settings, load_settings, profile_path
from supcam.synthetic import synthesize

_CASES = 40  # looks among the drawn crops


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


def run_experiment(archive: Path, settings: Settings, root: Path, *, seeds: int, workers: int, into: Path) -> Any:
    """Import, validate, divide, train and judge; writes ``chrcluster.json`` and ``predictions.csv`` below ``into``.

    Raises:
        UsageError: for an archive that is not ChrCluster, or settings that cannot be trained on.
        SupcamError: when the data fail validation, or no training finished.
    """
    seconds: dict[str, float] = {}
    with TemporaryDirectory() as scratch:
        start = time.perf_counter()
        data = Path(scratch) / "data"
        imported = import_sources([archive], data)
        if imported.types != CHRCLUSTER_COUNTS:
            raise UsageError(f"{archive} holds {imported.types}; ChrCluster has {CHRCLUSTER_COUNTS}. Give its zip.")
        frame = read_manifest(data / "manifest.csv")
        seconds["import"] = time.perf_counter() - start
        checked = validate_crops(frame, data, settings.validate_, docs=into / "validation")
        require_passed(checked, into / "validation.json", into / "validation")
        seconds["validate"] = time.perf_counter() - start - seconds["import"]
        crops = CropSet.load(frame, data)
    linked = json.loads((into / "validation.json").read_text(encoding="utf-8"))["linked"]
    divided, report = split_manifest(frame, settings.split, linked=linked)
    parts = split_parts(frame, divided.set_index("crop_id")["split"])
    first = settings.runtime.seed
    cells = [
        Cell("chrcluster", with_seed(settings, seed), part) for seed in range(first, first + seeds) for part in parts
    ]
    with tracking.stage_run("chrcluster", root, settings) as run:
        bench = Bench(crops, root / "state" / "chrcluster", root, (run.run_id, run.experiment_id))
        failed = run_cells(cells, bench, workers).failed
        answers = gather(cells, bench)
        if answers is None:
            raise SupcamError(f"training failed: {'; '.join(failed.values())}")
        content = {
            "kind": "chrcluster",
            "origin": origin(root, answers.results[0].device),
            "manifest_hash": manifest_hash(frame),
            "split": {"hash": report.split_hash, "counts": report.counts},
            "seeds": seeds,
            "seconds": seconds | answers.results[0].seconds,
            "settings": settings.model_dump(mode="json", by_alias=True),
            "subsets": subset_figures(answers, settings.evaluate),
        }
        write_text(into / "chrcluster.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_predictions(answers, into / "predictions.csv")
        run.log_artifact(into / "chrcluster.json")
    return content


def main() -> None:
    """Run the experiment and print its figures as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("zip", nargs="?", type=Path, help="ChrCluster's zip")
    source.add_argument("--stand-in", action="store_true", help="draw the crops instead")
    parser.add_argument("--seeds", type=from_one, default=1)
    parser.add_argument("--workers", type=from_one, default=1, help="seeds trained at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="settings for this run")
    parser.add_argument("--into", type=Path, default=Path("reports/chrcluster"))
    options = parser.parse_args()
    tracking.quiet()
    try:
        root = tracking.project_root()
        settings = load_settings(profile_path("chrcluster"), dict(pair(text) for text in options.set))
        into = root / options.into
        into.mkdir(parents=True, exist_ok=True)
        archive = draw_stand_in(into / "stand_in.zip") if options.stand_in else options.zip
        content = run_experiment(archive, settings, root, seeds=options.seeds, workers=options.workers, into=into)
    except (SupcamError, OSError) as error:
        told = explained(error)
        sys.stderr.write(f"error: {told}\n")
        sys.exit(told.exit_code)
    for figure in ("accuracy", "macro_sensitivity"):
        values = {key: content["subsets"]["all crops"][figure][key] for key in ("value", "low", "high")}
        sys.stdout.write(json.dumps({"name": figure, "unit": "share", **values}) + "\n")
    for step, seconds in content["seconds"].items():
        sys.stdout.write(json.dumps({"name": f"seconds_{step}", "value": round(seconds, 1), "unit": "s"}) + "\n")


if __name__ == "__main__":
    main()
