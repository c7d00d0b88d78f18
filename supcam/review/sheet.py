"""The review sheet: a table of crops, a page on which a person decides about them, and the table with the decisions.

``review.csv`` and ``review.html`` hold the same rows. The page needs no server and no network: it keeps what was
decided in the browser, and exports the table with the columns ``corrected``, ``reader`` and ``date`` filled in.
"""

import hashlib
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pandas as pd

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.pages import render, thumbnail
from supcam.serving.images import ImageError, decode_crop

UNSURE, NO_CLUSTER = "unsure", "not a cluster"
DECISIONS = (*TYPE_LABELS, UNSURE, NO_CLUSTER)
COLUMNS = (
    "crop_id", "path", "type", "suggestion", "confidence", "reason", "case", "source", "corrected", "reader", "date",
)  # fmt: skip
SHEET, PAGE = "review.csv", "review.html"
_NEEDED = ("type", "corrected")
_SIDE = 480  # pixels: seen large, and a thousand crops stay a page of a few megabytes


def write_sheet(rows: pd.DataFrame, root: Path, out: Path, *, heading: str, notes: Sequence[str] = ()) -> Path:
    """Write ``review.csv`` and ``review.html`` into the folder ``out``, and return the former.

    Args:
        rows: One row a crop with ``path`` and ``type`` (empty where a model gave none); other columns of
            ``COLUMNS`` may be missing and are left empty then.
        root: Folder that the paths start from; in the sheet they start from its own folder.
        out: Folder of the sheet.
        heading: What is reviewed, in a few words.
        notes: What a reader should know before the first crop, such as how good the suggestions are.
    """
    table = rows.reindex(columns=list(COLUMNS)).fillna("").astype(str)
    files = [root / path for path in table["path"]]
    table["path"] = [Path(os.path.relpath(file, out)).as_posix() for file in files]
    content = table.to_csv(index=False, lineterminator="\n")
    crops = [{**row, "picture": picture(file)} for row, file in zip(table.to_dict("records"), files, strict=True)]
    values = {
        "heading": heading,
        "notes": notes,
        "crops": crops,
        "columns": COLUMNS,
        "decisions": DECISIONS,
        "key": hashlib.sha256(content.encode()).hexdigest()[:16],  # what was decided belongs to this sheet alone
    }
    write_text(out / SHEET, content)
    write_text(out / PAGE, render("review.html", values))
    return out / SHEET


def read_sheet(sheet: Path) -> pd.DataFrame:
    """Read a sheet as text, its decisions by their usual names; the index holds the line of the file.

    Raises:
        UsageError: for what is not a sheet, an unknown decision or date, or a crop that is listed twice.
    """
    from supcam.data.tables import read_table

    what = f"review sheet {sheet}"
    try:
        rows = read_table(sheet.read_bytes(), what, "Save it as CSV in UTF-8.")
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}. Check the path.") from None
    missing = [name for name in _NEEDED if name not in rows.columns]
    if not {"crop_id", "path"} & set(rows.columns):
        missing.insert(0, "crop_id")
    if missing:
        raise UsageError(f"{what} lacks the column {', '.join(missing)}. Fill in the sheet as it was written.")
    rows = rows.reindex(columns=list(COLUMNS)).fillna("")
    rows["corrected"] = [_decision(text, f"{sheet} line {line}:") for line, text in rows["corrected"].items()]
    for line, text in rows["date"].items():
        _require_date(text, f"{sheet} line {line}:")
    names = crop_names(rows)
    twice = names[names.duplicated()]
    if len(twice):
        raise UsageError(f"{sheet} line {twice.index[0]}: {twice.iloc[0]} is listed twice. Keep one line.")
    return rows


def crop_names(rows: pd.DataFrame) -> "pd.Series[str]":
    """What each row of a sheet is about: the id of a crop of the data, else the path of a new one."""
    return rows["crop_id"].where(rows["crop_id"] != "", rows["path"])


def _decision(text: str, where: str) -> str:
    plain = " ".join(text.lower().replace("_", " ").split())
    if plain in ("", UNSURE, NO_CLUSTER):
        return plain
    try:
        return ClusterType.parse(text).label
    except UsageError as error:
        raise UsageError(f"{where} {error} Allowed as well: {UNSURE}, {NO_CLUSTER}.") from None


def _require_date(text: str, where: str) -> None:
    try:
        if text:
            date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{where} date {text!r} is unknown; write it as 2026-11-28.") from None


def picture(path: Path) -> str:
    """A crop as the model sees it, as the source of an ``img`` element; empty where it cannot be read."""
    try:
        return thumbnail(decode_crop(path), _SIDE)
    except ImageError:
        return ""
