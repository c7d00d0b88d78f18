"""Out-of-fold predictions find planted label errors, and no classifier sees the cases it judges."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation import out_of_fold as module
from supcam.evaluation.out_of_fold import out_of_fold
from supcam.review.labels import suspicious_labels
from tests.training.small import small_crops, small_settings

SETTINGS = small_settings(finetune={"epochs": 60, "batch_size": 16, "test_views": 1})


@pytest.fixture
def crops() -> CropSet:
    """120 bars in six cases, two of them with a wrong label."""
    made = small_crops(per_type=30)
    frame = made.frame.assign(case_id=[f"case{number % 6}" for number in range(len(made))], source="drawn")
    frame = frame.assign(path=frame["crop_id"] + ".png", sha256=frame["crop_id"], label_certain=True)
    frame.loc[frame["crop_id"] == "instance-7", "type"] = "overlapping"
    frame.loc[frame["crop_id"] == "overlapping-11", "type"] = "instance"
    return CropSet(frame, made.images)


def test_planted_label_errors_are_on_the_sheet(crops: CropSet, tmp_path: Path) -> None:
    probabilities = out_of_fold(crops, SETTINGS, 2, state_dir=tmp_path)
    assert probabilities.shape == (120, 4)
    assert np.allclose(probabilities.sum(axis=1), 1.0)
    rows = suspicious_labels(crops.frame, probabilities).set_index("crop_id")
    assert rows.loc["instance-7", "suggestion"] == "instance"
    assert rows.loc["overlapping-11", "suggestion"] == "overlapping"
    assert len(rows) < 30


def test_no_case_is_judged_by_a_model_that_saw_it(
    crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    judged: list[set[str]] = []

    class Trained:
        model_state: dict[str, object] = {}  # noqa: RUF012  (stands for weights)

    def train(train: CropSet, *_: object, **__: object) -> Trained:
        seen.append(set(train.frame["case_id"]))
        return Trained()

    def judge(_: object, held_out: CropSet, __: object) -> np.ndarray:
        judged.append(set(held_out.frame["case_id"]))
        return np.zeros((len(held_out), 4))

    monkeypatch.setattr(module, "finetune", train)
    monkeypatch.setattr(module, "predict_logits", judge)
    linked = [["instance-0", "instance-1"]]  # of two cases: they must share a fold
    out_of_fold(crops, SETTINGS, 3, state_dir=tmp_path, linked=linked)
    assert len(seen) == 3
    assert all(not trained & held for trained, held in zip(seen, judged, strict=True))
    assert set.union(*judged) == {f"case{number}" for number in range(6)}
    assert any({"case0", "case1"} <= held for held in judged)


def test_more_folds_than_cases_are_refused(crops: CropSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folds = 9 is not allowed; allowed are 2 to 6"):
        out_of_fold(crops, SETTINGS, 9, state_dir=tmp_path)


def test_crops_keep_their_order(crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = {crop_id: row for row, crop_id in enumerate(crops.frame["crop_id"])}

    class Trained:
        model_state: dict[str, object] = {}  # noqa: RUF012

    def judge(_: object, held_out: CropSet, __: object) -> np.ndarray:
        rows = held_out.frame["crop_id"].map(order).to_numpy()
        share = (rows + 1) / (len(order) + 2)
        return np.log(np.stack([share, (1 - share) / 3, (1 - share) / 3, (1 - share) / 3], axis=1))

    monkeypatch.setattr(module, "finetune", lambda *_, **__: Trained())
    monkeypatch.setattr(module, "predict_logits", judge)
    found = out_of_fold(crops, SETTINGS, 2, state_dir=tmp_path)[:, 0]
    assert pd.Series(found).is_monotonic_increasing
