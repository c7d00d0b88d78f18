"""No case is in two parts of a fold, every crop is held out once, and both sources are in every fold."""

import numpy as np
import pandas as pd
import pytest

from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.experiments.parts import grouped_folds, split_parts
from supcam.settings import SplitSettings

SETTINGS = SplitSettings(validation=0.25)


def test_every_crop_is_held_out_once_with_all_of_its_case(crops: CropSet) -> None:
    folds = grouped_folds(crops.frame, SETTINGS, 4)
    assert sorted(np.concatenate([fold.held_out for fold in folds]).tolist()) == list(range(len(crops)))
    for fold in folds:
        rows = [set(part.tolist()) for part in (fold.train, fold.validation, fold.held_out)]
        assert sum(map(len, rows)) == len(crops) == len(set.union(*rows))
        cases = [set(crops.frame["case_id"].iloc[list(part)]) for part in rows]
        assert not cases[0] & cases[1] and not cases[1] & cases[2] and not cases[0] & cases[2]
        assert all(cases)


def test_every_fold_holds_out_cases_of_each_source(crops: CropSet) -> None:
    for fold in grouped_folds(crops.frame, SETTINGS, 4):
        assert set(crops.frame["source"].iloc[fold.held_out]) == {"one", "two"}


def test_linked_crops_share_a_part(crops: CropSet) -> None:
    linked = [["instance-0", "instance-4"]]  # of a case of each source
    for fold in grouped_folds(crops.frame, SETTINGS, 4, linked=linked):
        for part in (fold.train, fold.validation, fold.held_out):
            cases = set(crops.frame["case_id"].iloc[part])
            assert ("case0" in cases) == ("case4" in cases)


def test_held_out_crops_choose_no_validation_crop(crops: CropSet) -> None:
    """The parts that train must be the same whatever the labels of the held-out crops are."""
    before = grouped_folds(crops.frame, SETTINGS, 4)
    for fold in before:
        frame = crops.frame.copy()
        rest = frame.drop(index=fold.held_out)
        assert set(frame["case_id"].iloc[fold.validation]) < set(rest["case_id"])
        digest = fold.digest(frame)
        frame.loc[frame.index[fold.train[0]], "type"] = "overlapping"
        assert fold.digest(frame) != digest


def test_order_of_rows_does_not_matter(crops: CropSet) -> None:
    shuffled = crops.frame.sample(frac=1.0, random_state=3).reset_index(drop=True)
    for one, two in zip(grouped_folds(crops.frame, SETTINGS, 4), grouped_folds(shuffled, SETTINGS, 4), strict=True):
        for name in ("train", "validation", "held_out"):
            ids = [set(f["crop_id"].iloc[getattr(p, name)]) for f, p in ((crops.frame, one), (shuffled, two))]
            assert ids[0] == ids[1]


def test_more_folds_than_cases_are_refused(crops: CropSet) -> None:
    with pytest.raises(UsageError, match="folds = 9 is not allowed; allowed are 2 to 8"):
        grouped_folds(crops.frame, SETTINGS, 9)


def test_parts_of_the_split(crops: CropSet) -> None:
    names = pd.Series(["train", "validation", "test", "train"] * 24, index=crops.frame["crop_id"])
    (parts,) = split_parts(crops.frame, names)
    assert (len(parts.train), len(parts.validation), len(parts.held_out)) == (48, 24, 24)
    with pytest.raises(UsageError, match=r"instance-0 and 0 others are in no part.*dvc repro"):
        split_parts(crops.frame, names.drop("instance-0"))
    with pytest.raises(UsageError, match="test part of the split is empty"):
        split_parts(crops.frame, names.replace("test", "validation"))


def test_folds_keep_cases_whole_whatever_the_protocol_of_the_split(crops: CropSet) -> None:
    paper = grouped_folds(crops.frame, SETTINGS.model_copy(update={"protocol": "paper"}), 4)
    for fold, other in zip(paper, grouped_folds(crops.frame, SETTINGS, 4), strict=True):
        assert np.array_equal(fold.held_out, other.held_out) and np.array_equal(fold.train, other.train)
