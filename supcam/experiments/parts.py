"""Which crops a job trains on, chooses with and is judged on: grouped folds, or the parts of the split."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.data.folds import divide, fold_manifest
from supcam.data.groups import Links
from supcam.data.manifest import manifest_hash
from supcam.errors import UsageError
from supcam.settings import SplitSettings

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows of a frame by their part; no case is in two of them.

    Attributes:
        number: From 0; 0 for the parts of a split.
        train, validation, held_out: Rows to train and compose with, to choose the epoch, and to predict at the end.
    """

    number: int
    train: Rows
    validation: Rows
    held_out: Rows

    def digest(self, frame: pd.DataFrame) -> str:
        """SHA-256 over what the three parts hold: ids, bytes, labels and domains of the crops, in their order."""
        names = [name for name in ("crop_id", "sha256", "type", "source", "case_id", "label_certain") if name in frame]
        columns = frame[names].astype(str).to_numpy()
        held = [columns[rows].tolist() for rows in (self.train, self.validation, self.held_out)]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def grouped_folds(frame: pd.DataFrame, settings: SplitSettings, folds: int, *, linked: Links = ()) -> list[Fold]:
    """Each crop held out once, with all of its case; of the others ``split.validation`` choose the epoch.

    So it is whatever ``split.protocol`` says; crops that name no case are divided one by one. Every source is divided
    by itself, so that each fold holds out cases of each. The validation part of a fold is divided off in the same way,
    without a look at the held-out crops.

    Raises:
        UsageError: for fewer than two folds or fewer groups than folds.
    """
    settings = settings.model_copy(update={"protocol": "by_case"})
    by_path = fold_manifest(frame, settings, folds, linked=linked).set_index("crop_id")["fold"]
    fold = frame["crop_id"].map(by_path).to_numpy()
    found = []
    for number in range(folds):
        rest = np.flatnonzero(fold != number)
        shares = (1 - settings.validation, settings.validation)
        part = divide(frame.iloc[rest], settings, shares, linked=linked).to_numpy()
        found.append(Fold(number, rest[part == 0], rest[part == 1], np.flatnonzero(fold == number)))
    return found


def split_parts(frame: pd.DataFrame, split: "pd.Series[str]") -> list[Fold]:
    """The parts of the pipeline's own split as the only fold; ``split`` maps crop ids to train, validation and test.

    Raises:
        UsageError: when a crop has no part, or there is nothing to train on or to judge.
    """
    part = frame["crop_id"].map(split)
    missing = frame.loc[part.isna(), "crop_id"]
    if len(missing):
        raise UsageError(f"{missing.iloc[0]} and {len(missing) - 1} others are in no part of the split. Run: dvc repro")
    rows = [np.flatnonzero((part == name).to_numpy()) for name in ("train", "validation", "test")]
    for name, found in (("train", rows[0]), ("test", rows[2])):
        if not len(found):
            raise UsageError(f"the {name} part of the split is empty. Import more cases or change the split shares.")
    return [Fold(0, *rows)]


def links_of(root: Path, frame: pd.DataFrame) -> list[list[str]]:
    """Near duplicates that data validation found, which must share a part.

    Raises:
        UsageError: when these data were not validated.
    """
    wanted = manifest_hash(frame)
    for folder in ("outputs", "reports"):
        path = root / folder / "validate" / "validation.json"
        if path.is_file():
            report = json.loads(path.read_text(encoding="utf-8"))
            if report["manifest_hash"] == wanted:
                return [list(ids) for ids in report["linked"]]
    raise UsageError("these data were not validated, so their near duplicates are not known. Run: supcam validate")
