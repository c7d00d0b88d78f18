"""Tables of answers, as ``supcam predict``, ``supcam route`` and a package write them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.serving.gate import LOW_CONFIDENCE, sure_enough

COLUMNS = ("type", "confidence", "needs_review", "reason")
_ROUNDED = 1e-5  # how far a table may have rounded a confidence
_TRUTH = {"true": True, "false": False}


def read_answers(paths: Sequence[Path]) -> pd.DataFrame:
    """Read CSV and Parquet files, and folders of them, as one table; rows with an ``error`` are left out.

    Returns the four ``COLUMNS`` (``confidence`` is NaN where there is no type) and whatever other columns they have.

    Raises:
        UsageError: for a path that does not exist, a file that is not a table of answers, or no file at all.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise UsageError(
            f"{', '.join(map(str, paths))} holds no answers; give CSV or Parquet files, or folders of them."
        )
    return pd.concat([_read(file) for file in files], ignore_index=True)


def require_answers_of(answers: pd.DataFrame, review: Mapping[str, Any], origin: str) -> None:
    """Refuse answers that another model gave: which of them are of low confidence is decided by the model's threshold.

    Args:
        answers: As :func:`read_answers` gives them.
        review: Section ``review`` of the card of the model.
        origin: Its name, for the message.

    Raises:
        UsageError: when a crop is of low confidence, or is not, against the threshold.
    """
    typed = answers[answers["type"] != ""]
    confidence = typed["confidence"].to_numpy(dtype=np.float64)
    marked = typed["reason"].str.contains(LOW_CONFIDENCE, regex=False).to_numpy()
    near = np.abs(confidence - review["threshold"]) < _ROUNDED
    wrong = (marked == sure_enough(confidence[:, np.newaxis], review["threshold"])) & ~near
    if wrong.any():
        first = typed[wrong].iloc[0]
        raise UsageError(
            f"{int(wrong.sum())} of {len(typed)} answers are not of {origin}: a {first['type']} of confidence "
            f"{first['confidence']:.3f} is {'' if marked[wrong][0] else 'not '}marked {LOW_CONFIDENCE!r}, against the "
            "threshold of this model. Name the one that answered: --model"
        )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for suffix in ("csv", "parquet") for file in path.rglob(f"*.{suffix}"))
    if not path.exists():
        raise UsageError(f"{path} does not exist. Check the path.")
    return [path]


def _read(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
        else:
            frame = pd.read_csv(file, dtype={"type": str, "reason": str, "error": str, "case": str, "source": str})
    except ImportError:
        raise UsageError(f"{file}: Parquet needs pyarrow. Install it: pip install pyarrow") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UsageError(f"{file} is not a table of answers: {error}. Give the output of supcam predict.") from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UsageError(f"{file} lacks the column {', '.join(missing)}. Give the output of supcam predict.")
    if "error" in frame.columns:
        frame = frame[frame["error"].fillna("") == ""]
    frame = frame.assign(type=frame["type"].fillna(""), reason=frame["reason"].fillna(""))
    unknown = frame.loc[~frame["type"].isin([*TYPE_LABELS, ""]), "type"]
    if len(unknown):
        raise UsageError(
            f"{file}: type {unknown.iloc[0]!r} is unknown; allowed are {', '.join(TYPE_LABELS)} and empty."
        )
    review = frame["needs_review"].astype(str).str.lower().map(_TRUTH)
    confidence = pd.to_numeric(frame["confidence"], errors="coerce")
    if review.isna().any() or not confidence.dropna().between(0, 1).all():
        raise UsageError(f"{file}: needs_review must be True or False, and confidence a number from 0 to 1.")
    return frame.assign(needs_review=review.astype(bool), confidence=confidence)
