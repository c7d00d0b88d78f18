"""The real objective: a short training, its reports, its seeds, and going on after a kill."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import SettingError, UsageError
from supcam.settings import Settings, parse_settings
from supcam.tuning.objective import Point, TrainingObjective


class Killed(Exception):
    """Stands for the end of the process: nothing after it is done."""


class Notes:
    """Keeps what a trial reports; interrupts it at a report when asked to."""

    def __init__(self, state_dir: Path, stop_at: int | None = None) -> None:
        self.state_dir, self.stop_at = state_dir, stop_at
        self.reports: list[float] = []
        self.curves: dict[str, float] = {}

    def report(self, value: float) -> None:
        self.reports.append(value)
        if len(self.reports) == self.stop_at:
            raise Killed

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.curves |= metrics


def crops(count: int, seed: int) -> CropSet:
    """Dark bars, one more for each type: learnable within an epoch or two."""
    rng = np.random.default_rng(seed)
    images, rows = [], []
    for at in range(count):
        image = np.full((32, 32), 255, dtype=np.uint8)
        for bar in range(at % 4 + 1):
            image[4:28, 3 + 7 * bar : 7 + 7 * bar] = rng.integers(40, 120)
        images.append(image)
        rows.append({"crop_id": f"{seed}-{at}", "type": TYPE_LABELS[at % 4], "source": "bars", "case_id": str(at % 3)})
    return CropSet(pd.DataFrame(rows).assign(label_certain=True, relation=""), images)


def settings(weight: float, **tune: object) -> Settings:
    return parse_settings(
        {
            "runtime": {"threads": 1, "progress": False},
            "input": {"size": 32},
            "model": {"encoder": "resnet10"},
            "pretrain": {"batch_size": 16, "queue_size": 32},
            "finetune": {"batch_size": 16, "contrastive_weight": weight},
            "tune": {"pretrain_epochs": 2, "finetune_epochs": 2, **tune},
        }
    )


def objective(weight: float = 0.0, **tune: object) -> TrainingObjective:
    return TrainingObjective(crops(64, 1), crops(24, 2), settings(weight, **tune))


def test_a_trial_reports_every_epoch_and_can_be_resumed_to_the_same_value(tmp_path: Path) -> None:
    whole = Notes(tmp_path / "whole")
    value = objective()(Point(0.3, 0.1), whole)
    assert len(whole.reports) == 4 and 0 <= value <= 1
    assert {"seed_42/pretrain/loss", "seed_42/finetune/macro_sensitivity"} <= set(whole.curves)
    killed = Notes(tmp_path / "parts", stop_at=3)
    with pytest.raises(Killed):
        objective()(Point(0.3, 0.1), killed)
    resumed = Notes(tmp_path / "parts")
    assert objective()(Point(0.3, 0.1), resumed) == value
    assert len(resumed.reports) < 4


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    point, chosen = Point(0.0, 0.1), objective(seeds=2, pretrain_epochs=1, finetune_epochs=1)
    watch = Notes(tmp_path)
    mean = chosen(point, watch)
    assert len(watch.reports) == 4
    assert mean == pytest.approx((watch.reports[1] + watch.reports[3]) / 2)


def test_the_probe_ends_after_pretraining(tmp_path: Path) -> None:
    watch = Notes(tmp_path)
    value = objective(objective="probe", pretrain_epochs=1)(Point(0.0, 0.1), watch)
    assert watch.reports == [value]


def test_joint_training_is_tuned_without_pretraining(tmp_path: Path) -> None:
    found = {}
    for margin in (0.0, 1.0):
        watch = Notes(tmp_path / f"{margin}")
        objective(0.5, pretrain_epochs=0)(Point(margin, 0.1), watch)
        assert len(watch.reports) == 2
        assert {name.rpartition("/")[0] for name in watch.curves} == {"seed_42/finetune"}
        found[margin] = watch.curves["seed_42/finetune/contrastive_loss"]
    assert found[0.0] != found[1.0]


@pytest.mark.parametrize(
    ("weight", "tune", "reason"),
    [
        (0.0, {}, "1 or more unless finetune.contrastive_weight is above 0: nothing else reads margin and temperature"),
        (0.5, {"objective": "probe"}, "1 or more for tune.objective: probe"),
        (
            0.5,
            {"space": {"momentum_end": (0.9, 0.99)}},
            "1 or more for a search of momentum_end, which acts in pre-tra",
        ),
    ],
)
def test_a_search_of_what_nothing_reads_is_refused(weight: float, tune: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingError, match=rf"tune.pretrain_epochs = 0 is not allowed; allowed: {reason}"):
        objective(weight, pretrain_epochs=0, **tune)
    objective(0.5, pretrain_epochs=0, space={"queue_size": (32, 64)})


def test_without_validation_crops_nothing_is_tuned(tmp_path: Path) -> None:
    empty = TrainingObjective(crops(64, 1), crops(24, 2).subset([]), settings(0.0))
    with pytest.raises(UsageError, match=r"tuning needs validation crops"):
        empty(Point(0.0, 0.1), Notes(tmp_path))
