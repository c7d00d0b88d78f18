"""Cases of labelled crops: which crops are resampled together, and what intervals over cases rest on."""

import numpy as np
import pandas as pd

from supcam.cluster_type import ClusterType
from supcam.evaluation.metrics import Ints

ONE_CASE = "one case only: intervals resample crops and say nothing about other cases"
_FEW_CASES = 10


def actual_types(frame: pd.DataFrame) -> Ints:
    """Types (N,) by the column ``type`` of a manifest."""
    return np.array([int(ClusterType.parse(name)) for name in frame["type"]], dtype=np.int64)


def case_groups(frame: pd.DataFrame) -> list[str]:
    """What is resampled together: ``source/case_id`` of each row; a crop without a case stands alone, as in a split.

    Crops of one patient share stain, exposure and karyotype, so that errors come in cases. Resampling crops one by one
    would count them as independent and give intervals that are too narrow.
    """
    pairs = zip(text_column(frame, "source"), text_column(frame, "case_id"), strict=True)
    # A case is named within its source only: "1" of two laboratories are two patients.
    return [f"{source}/{case}" if case else f"crop {row}" for row, (source, case) in enumerate(pairs)]


def known_cases(frame: pd.DataFrame) -> int:
    """Number of cases that are named."""
    pairs = zip(text_column(frame, "source"), text_column(frame, "case_id"), strict=True)
    return len({pair for pair in pairs if pair[1]})


def count_of_cases(count: int) -> str:
    """Number of cases in words; 0 are unknown ones."""
    return f"{count} case{'s' * (count > 1)}" if count else "unknown cases"


def case_notes(frame: pd.DataFrame) -> list[str]:
    """What intervals over cases rest on, where those are few, or crops name none."""
    named, alone = known_cases(frame), sum(not case for case in text_column(frame, "case_id"))
    if not named:
        return ["no crop names its case: intervals resample crops and say nothing about other cases"]
    if named == 1 and not alone:
        return [ONE_CASE]
    notes = []
    if named < _FEW_CASES:
        notes.append(f"intervals rest on {count_of_cases(named)} only and are likely too narrow")
    if alone:
        notes.append(f"{alone} of {len(frame)} crops name no case and are resampled one by one, as if each were a case")
    return notes


def text_column(frame: pd.DataFrame, name: str) -> list[str]:
    """A column as text, "" where a value or the whole column is missing."""
    return frame[name].fillna("").astype(str).tolist() if name in frame else [""] * len(frame)
