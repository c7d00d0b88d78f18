"""Record the table that ``benchmarks.tuning`` replays: what every point of a grid gives in short and in full training.

``python -m benchmarks.tuning_grid [POINTS]`` adds the points that ``benchmarks/tuning_grid.csv`` lacks, at most POINTS
of them, two at a time with one thread each; stopped, it goes on where it was. All on the embedded sample:

| column | what |
|---|---|
| probe, finetune | what a trial would return: validation macro sensitivity of a linear probe after the short pre-training, and after a short fine-tuning on top of it |
| reports | the intermediate values a trial reports, from which pruning decides |
| full_validation, full_test | macro sensitivity after a full pre-training and fine-tuning, on the validation crops and on freshly drawn crops, more than the sample's test part holds |
| seconds_probe, seconds_finetune, seconds_full | what each of them takes; the second includes the first |
"""  # noqa: E501

import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd

from supcam.composition.dataset import compose_set
from supcam.data.crops import CropSet
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.data.splits import split_manifest
from supcam.files import replaced_file
from supcam.settings import Settings, load_settings, profile_path
from supcam.synthetic.sample import synthesize
from supcam.tracking import project_root
from supcam.tuning.objective import Point, TrainingObjective

TABLE = Path(__file__).with_suffix(".csv")
MARGINS = (0.0, 0.15, 0.3, 0.45, 0.6)
TEMPERATURES = (0.1, 0.16, 0.25, 0.4)
SEEDS = (42,)
KEY = ["seed", "margin", "temperature"]
WORKERS = 2
TEST_CROPS, TEST_CASES, TEST_SEED = 960, 16, 1042


class Reports:
    """Keeps the intermediate values of a trial and when they came."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir, self.started = state_dir, time.perf_counter()
        self.values: list[float] = []
        self.seconds: list[float] = []

    def report(self, value: float) -> None:
        """Keep one."""
        self.values.append(value)
        self.seconds.append(time.perf_counter() - self.started)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Curves are not recorded."""


def main() -> int:
    """Train what is missing; a stopped recording goes on where it was."""
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else None
    wanted = missing_points(known_rows())[:limit]
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        parts = (*sample_parts(grid_settings(), Path(folder)), fresh_test(Path(folder)))
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
            running = [pool.submit(measure, point, *parts) for point in wanted]
            for done in as_completed(running):
                table = pd.concat([known_rows(), pd.DataFrame([done.result()])]).sort_values(KEY)
                with replaced_file(TABLE) as fresh:
                    table.to_csv(fresh, index=False)
                print(done.result(), flush=True)
    return 0


def measure(key: tuple[int, float, float], train: CropSet, validation: CropSet, test: CropSet) -> dict[str, object]:
    """Train one point, short and in full; a row of the table."""
    seed, margin, temperature = key
    base = grid_settings()
    settings = base.model_copy(update={"runtime": base.runtime.model_copy(update={"seed": seed})})
    with tempfile.TemporaryDirectory() as state:
        watch = Reports(Path(state))
        value = TrainingObjective(train, validation, settings)(Point(margin, temperature), watch)
        short = time.perf_counter() - watch.started
        full = full_run(settings, Point(margin, temperature), (train, validation, test), Path(state) / "full")
    probes = settings.tune.pretrain_epochs
    return {
        **dict(zip(KEY, key, strict=True)),
        "probe": round(watch.values[probes - 1], 6),
        "finetune": round(value, 6),
        "reports": " ".join(f"{report:.6f}" for report in watch.values),
        **{f"full_{name}": round(value, 6) for name, value in full.items()},
        "seconds_probe": round(watch.seconds[probes - 1], 1),
        "seconds_finetune": round(short, 1),
        "seconds_full": round(time.perf_counter() - watch.started - short, 1),
    }


def full_run(
    settings: Settings, point: Point, parts: tuple[CropSet, CropSet, CropSet], state: Path
) -> dict[str, float]:
    """Macro sensitivity on the validation and on the fresh crops after training as the pipeline does."""
    from supcam.training.embeddings import sensitivities
    from supcam.training.finetuning import finetune
    from supcam.training.prediction import predict_logits
    from supcam.training.pretraining import pretrain

    train, validation, test = parts
    chosen = settings.model_copy(update={"pretrain": settings.pretrain.model_copy(update=point.values)})
    encoder = pretrain(train, validation, chosen, state_dir=state / "pretrain").encoder_state
    model = finetune(train, validation, chosen, encoder, state_dir=state / "finetune").model_state
    found = {}
    for name, crops in (("validation", validation), ("test", test)):
        predicted = predict_logits(model, crops, chosen).argmax(axis=1)
        found[name] = sensitivities(crops.labels, predicted)["macro_sensitivity"]
    return found


def grid_settings() -> Settings:
    """The profile sample on one thread, all of the processor."""
    quiet = {"runtime.progress": "false", "runtime.threads": "1", "runtime.device": "cpu"}
    return load_settings(profile_path("sample"), quiet)


def known_rows() -> pd.DataFrame:
    """The table as far as it is recorded."""
    return pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEY)


def missing_points(table: pd.DataFrame) -> list[tuple[int, float, float]]:
    """Seed, margin and temperature of the points of the grid that a table lacks."""
    known = set(table[KEY].itertuples(index=False, name=None))
    return sorted(set(itertools.product(SEEDS, MARGINS, TEMPERATURES)) - known)


def sample_parts(settings: Settings, folder: Path) -> tuple[CropSet, CropSet]:
    """Training crops, real and composed, and validation crops of the embedded sample."""
    data = project_root() / "data"
    frame, _ = split_manifest(read_manifest(data / "manifest.csv"), settings.split)
    crops = CropSet.load(frame, data)
    train = crops.subset((frame["split"] == "train").to_numpy())
    compose_set(train, settings.compose, folder / "compose")
    composed = CropSet.load(read_manifest(folder / "compose" / "manifest.csv"), folder / "compose")
    return train.concat(composed), crops.subset((frame["split"] == "validation").to_numpy())


def fresh_test(folder: Path) -> CropSet:
    """Crops of cases that the sample does not have, drawn as the sample was."""
    synthesize(folder / "drawn", cases=TEST_CASES, crops=TEST_CROPS, seed=TEST_SEED)
    (folder / "fresh").mkdir()
    import_sources([folder / "drawn"], folder / "fresh" / "data")
    return CropSet.load(read_manifest(folder / "fresh" / "data" / "manifest.csv"), folder / "fresh" / "data")


if __name__ == "__main__":
    raise SystemExit(main())
