"""What production doubts, as a review sheet beside its crops: a folder that can be carried to the reader."""

import shutil
from pathlib import Path

import pandas as pd

from supcam.errors import UsageError
from supcam.files import replaced_folder
from supcam.registry.client import REVIEW_FOLDER
from supcam.review.sheet import write_sheet

CROPS = "crops"
_HEADING = "Crops that production doubts"


def doubtful_sheet(answers: pd.DataFrame, into: Path) -> int:
    """Copy the crops that need review into ``into/crops`` and write their sheet; returns how many there are.

    Args:
        answers: Columns ``path`` (absolute), ``type``, ``confidence``, ``needs_review``, ``reason`` and ``error``, as
            ``supcam predict`` writes them. A column ``case`` is kept.
        into: New folder.

    Raises:
        UsageError: when ``into`` exists and is not an empty folder.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UsageError(f"{into} exists and is not empty; give a new folder.")
    rows = answers[answers["needs_review"].astype(bool) & (answers["error"] == "")].reset_index(drop=True)
    with replaced_folder(into) as folder:
        (folder / CROPS).mkdir()
        paths = []
        for number, path in enumerate(map(Path, rows["path"]), 1):
            target = folder / CROPS / f"{number:05d}-{path.name}"
            shutil.copy2(path, target)
            paths.append(f"{CROPS}/{target.name}")
        write_answers(rows.assign(path=paths), folder)
    return len(rows)


def review_of_routed(answers: pd.DataFrame, into: Path) -> None:
    """Write the sheet of the crops that ``supcam route`` put into ``into/review``, beside them.

    ``answers`` has the columns of ``supcam predict`` and ``routed_to``, the place of each crop below ``into``.
    """
    review = into / REVIEW_FOLDER
    rows = answers[answers["routed_to"].str.startswith(f"{REVIEW_FOLDER}/") & (answers["error"] == "")]
    write_answers(rows.assign(path=rows["routed_to"].str.removeprefix(f"{REVIEW_FOLDER}/")), review)


def write_answers(rows: pd.DataFrame, folder: Path) -> Path:
    """The sheet of crops that lie below ``folder``, written into it; the answer of production is the suggestion."""
    confidence = [f"{value:.3f}" if pd.notna(value) else "" for value in rows["confidence"]]
    sheet = rows.assign(crop_id="", suggestion=rows["type"], confidence=confidence)
    notes = ["Suggestions are production's own answers; the reason says why each crop is shown."]
    return write_sheet(sheet, folder, folder, heading=_HEADING, notes=notes)
