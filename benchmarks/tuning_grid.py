"""Record the table that ``benchmarks.tuning`` replays: every point of a grid, trained as a trial of the sample profile.

``python -m benchmarks.tuning_grid`` adds the points that ``benchmarks/tuning_grid.csv`` lacks.
"""

import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from supcam.composition.dataset import compose_set
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.data.splits import split_manifest
from supcam.settings import Settings, load_settings, profile_path
from supcam.tracking import project_root
from supcam.tuning import Point, TrainingObjective

TABLE = Path(__file__).with_suffix(".csv")
MARGINS = (0.0, 0.2, 0.4, 0.6)
TEMPERATURES = (0.07, 0.145, 0.3)
SEEDS = (42,)


class Reports:
    """Keeps the intermediate figures of a trial."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.values: list[float] = []

    def report(self, value: float) -> None:
        """Keep one."""
        self.values.append(value)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Curves are not recorded."""


def main() -> int:
    """Train what is missing, point by point; a stopped recording goes on where it was."""
    settings = load_settings(profile_path("sample"), {"runtime.progress": "false", "runtime.threads": "1"})
    with tempfile.TemporaryDirectory() as folder:
        train, validation = sample_parts(settings, Path(folder))
        for seed, margin, temperature in sorted(grid_points()):
            known = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["seed", "margin", "temperature"])
            if ((known[["seed", "margin", "temperature"]] == [seed, margin, temperature]).all(axis=1)).any():
                continue
            seeded = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"seed": seed})})
            with tempfile.TemporaryDirectory() as state:
                watch, started = Reports(Path(state)), time.perf_counter()
                value = TrainingObjective(train, validation, seeded)(Point(margin, temperature), watch)
            row = {
                "seed": seed,
                "margin": margin,
                "temperature": temperature,
                "value": round(value, 6),
                "reports": " ".join(f"{report:.6f}" for report in watch.values),
                "seconds": round(time.perf_counter() - started, 1),
            }
            pd.concat([known, pd.DataFrame([row])]).to_csv(TABLE, index=False)
            print(row, flush=True)
    return 0


def grid_points() -> set[tuple[int, float, float]]:
    """Seed, margin and temperature of every point of the whole grid."""
    return set(itertools.product(SEEDS, MARGINS, TEMPERATURES))


def sample_parts(settings: Settings, folder: Path) -> tuple[CropSet, CropSet]:
    """Training crops, real and composed, and validation crops of the embedded sample."""
    data = project_root() / "data"
    frame, _ = split_manifest(read_manifest(data / "manifest.csv"), settings.split)
    crops = CropSet.load(frame, data)
    train = crops.subset((frame["split"] == "train").to_numpy())
    compose_set(train, settings.compose, folder / "compose")
    composed = CropSet.load(read_manifest(folder / "compose" / "manifest.csv"), folder / "compose")
    return train.concat(composed), crops.subset((frame["split"] == "validation").to_numpy())


if __name__ == "__main__":
    raise SystemExit(main())
