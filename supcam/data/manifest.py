"""The manifest: one row per crop, read and written the same way everywhere."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.data.tables import read_exact_table
from supcam.errors import UsageError
from supcam.files import write_text

COLUMNS = ("crop_id", "path", "type", "case_id", "source", "sha256", "width", "height", "label_certain")
MANIFEST = "manifest.csv"

DRAWN = "drawn"  # in the column relation: a single chromosome that was drawn, not composed

_TRUTH = {"yes": True, "true": True, "1": True, "": True, "no": False, "false": False, "0": False}


def parse_certain(text: str) -> bool:
    """Read ``label_certain``: yes, true, 1 or empty; no, false or 0.

    Raises:
        UsageError: for any other text.
    """
    certain = _TRUTH.get(text.strip().lower())
    if certain is None:
        raise UsageError(f"label_certain {text!r} is unknown; allowed are yes, no and empty (yes). Correct it.")
    return certain


def is_drawn(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) bool: drawn single chromosomes among real crops and composites."""
    if "relation" not in frame:
        return np.zeros(len(frame), dtype=bool)
    return (frame["relation"] == DRAWN).to_numpy(dtype=bool)


def is_confirmed(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) bool: labels that a person confirmed or corrected in a review, and was certain of."""
    return ((reviewed_by(frame) != "") & frame["label_certain"]).to_numpy(dtype=bool)


def reviewed_by(frame: pd.DataFrame) -> pd.Series:
    """Who decided about each label in a review, and when; "" where nobody did, as everywhere in older manifests."""
    people = frame.reindex(columns=["reader", "reviewed"]).fillna("")
    return (people["reader"] + " " + people["reviewed"]).str.strip()


# dvc repro records an edited folder, so data.dvc may name the very version that is wrong.
_RESTORE = (
    "Go back: git checkout -- data.dvc && dvc checkout --force data.dvc (dvc pull data.dvc where it is not cached)"
)


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest: text columns (``case_id`` empty when there is none), integer sides, ``label_certain`` bool.

    Further columns are kept as text. Content is judged by the expectations, only the form is checked here.

    Raises:
        UsageError: when the file is missing, is not a CSV, lacks a column or holds a value of the wrong kind.
    """
    if not path.is_file():
        raise UsageError(
            f"manifest {path} does not exist. Get the data (dvc pull data.dvc) or run: supcam import SOURCE"
        )
    frame = read_exact_table(path.read_bytes(), f"manifest {path}", _RESTORE)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise UsageError(
            f"manifest {path} lacks the column {', '.join(missing)}; needed are {', '.join(COLUMNS)}. {_RESTORE}"
        )
    for name in ("width", "height", "label_certain"):
        values: list[int] = []
        for line, text in enumerate(frame[name], 2):
            try:
                values.append(parse_certain(text) if name == "label_certain" else _pixels(name, text))
            except UsageError as error:
                raise UsageError(f"manifest {path} line {line}: {error}") from None
        frame[name] = pd.Series(values, dtype=bool if name == "label_certain" else int)
    return frame


def write_manifest(frame: pd.DataFrame, path: Path) -> None:
    """Write a manifest atomically, sorted by ``crop_id``: the same rows always give the same bytes."""
    rows = frame.sort_values("crop_id", kind="stable").copy()
    rows["label_certain"] = rows["label_certain"].map({True: "yes", False: "no"})
    first = [name for name in COLUMNS if name in rows.columns]
    rows = rows[first + [name for name in rows.columns if name not in first]]
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def manifest_hash(frame: pd.DataFrame) -> str:
    """sha256 over ids, types, cases and image hashes of all crops, and which labels are uncertain.

    The order of the rows does not matter.
    """
    columns = (frame[name].astype(str) for name in ("crop_id", "type", "case_id", "sha256"))
    doubts = ([] if certain else ["label uncertain"] for certain in frame["label_certain"])
    rows = zip(zip(*columns, strict=True), doubts, strict=True)
    lines = sorted(json.dumps([*row, *doubt], ensure_ascii=False) for row, doubt in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _pixels(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"{name} is {text!r}; allowed are whole pixels. {_RESTORE}")
    return int(text)
