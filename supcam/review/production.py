"""What production doubts, as a review sheet beside its crops: a folder that can be carried to the reader."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from supcam.errors import UsageError
from supcam.files import is_free, replaced_folder
from supcam.registry.client import REVIEW_FOLDER
from supcam.review.sheet import write_sheet

CROPS = "crops"
_NOTES = ["Suggestions are production's own answers; the reason says why each crop is shown."]


def doubtful_sheet(answers: pd.DataFrame, into: Path) -> int:
    """Copy the crops that need review into ``into/crops`` and write their sheet; returns how many there are.

    Args:
        answers: Columns ``path`` (absolute), ``type``, ``confidence``, ``needs_review``, ``reason`` and ``error``, as
            ``supcam predict`` writes them. A column ``case`` is kept.
        into: New folder.

    Raises:
        UsageError: when ``into`` exists and is not an empty folder.
    """
    doubtful = answers[answers["needs_review"].astype(bool) & (answers["error"] == "")]
    with copied_crops(doubtful, into) as (rows, folder):
        _write_doubtful(rows, folder)
    return len(rows)


def review_of_routed(answers: pd.DataFrame, into: Path) -> None:
    """Write the sheet of the crops that ``supcam route`` put into ``into/review``, beside them.

    ``answers`` has the columns of ``supcam predict`` and ``routed_to``, the place of each crop below ``into``.
    """
    rows = answers[answers["routed_to"].str.startswith(f"{REVIEW_FOLDER}/") & (answers["error"] == "")]
    _write_doubtful(rows.assign(path=rows["routed_to"].str.removeprefix(f"{REVIEW_FOLDER}/")), into / REVIEW_FOLDER)


@contextmanager
def copied_crops(rows: pd.DataFrame, into: Path) -> Iterator[tuple[pd.DataFrame, Path]]:
    """Copies of the crops of ``rows`` in ``into/crops``: the rows with their new paths, and the folder to write into.

    ``into`` comes into being when the block ends well. Files that are gone by now are left out.

    Raises:
        UsageError: when ``into`` exists and is not an empty folder.
    """
    if not is_free(into):
        raise UsageError(f"{into} exists and is not empty; give a new folder.")
    rows = rows.loc[[Path(path).is_file() for path in rows["path"]]].reset_index(drop=True)
    with replaced_folder(into) as folder:
        (folder / CROPS).mkdir()
        paths = []
        for number, path in enumerate(map(Path, rows["path"]), 1):
            paths.append(f"{CROPS}/{number:05d}-{path.name}")
            shutil.copy2(path, folder / paths[-1])
        yield rows.assign(path=paths), folder


def write_answers(rows: pd.DataFrame, folder: Path, heading: str, notes: Sequence[str]) -> None:
    """Write the sheet of crops that lie below ``folder`` into it; ``suggestion`` and ``confidence`` are a model's."""
    confidence = [f"{value:.3f}" if pd.notna(value) else "" for value in rows["confidence"]]
    write_sheet(rows.assign(crop_id="", confidence=confidence), folder, folder, heading=heading, notes=notes)


def _write_doubtful(rows: pd.DataFrame, folder: Path) -> None:
    write_answers(rows.assign(suggestion=rows["type"]), folder, "Crops that production doubts", _NOTES)
