"""Cases of labelled crops: which crops are resampled together, and what intervals over cases rest on."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
    # A case is named within its source only: "1" of two laboratories are two patients.
    return [f"{source}/{case}" if case else f"crop {row}" for row, (source, case) in enumerate(_cases(frame))]


def known_cases(frame: pd.DataFrame) -> int:
    """Number of cases that are named."""
    return len({(source, case) for source, case in _cases(frame) if case})


def count_of_cases(count: int) -> str:
    """Number of cases in words; 0 are unknown ones."""
    return f"{count} case{'s' * (count > 1)}" if count else "unknown cases"


def case_notes(frame: pd.DataFrame) -> list[str]:
    """What intervals over cases rest on, where those are few, or crops name none."""
    named, alone = known_cases(frame), sum(not case for _, case in _cases(frame))
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


def certain_rows(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows (N,) whose label is certain; all where a manifest does not say so."""
    known = "label_certain" in frame
    return frame["label_certain"].astype(bool).to_numpy() if known else np.ones(len(frame), dtype=bool)


def source_rows(frame: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Rows (N,) of each source by its name; none where there is only one."""
    sources = np.asarray(_text(frame, "source"))
    names = np.unique(sources)
    return {str(name): sources == name for name in names} if len(names) > 1 else {}


def subsets(frame: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Rows (N,) bool to be reported apart: all crops, certain labels, each source, and its certain labels."""
    found = {"all crops": np.ones(len(frame), dtype=bool)} | source_rows(frame)
    certain = certain_rows(frame)
    for name, rows in list(found.items()):
        if certain[rows].any() and not certain[rows].all():
            found[f"{name}, label_certain not no"] = rows & certain
    return found


def _cases(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Source and case of each row."""
    return list(zip(_text(frame, "source"), _text(frame, "case_id"), strict=True))


def _text(frame: pd.DataFrame, name: str) -> list[str]:
    """A column as text, "" where a value or the whole column is missing."""
    return frame[name].fillna("").astype(str).tolist() if name in frame else [""] * len(frame)
