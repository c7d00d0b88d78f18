"""Suspicious labels: found from out-of-fold predictions, shown on a sheet, and taken back once a person decided."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.folder import build_folder, changing, link_tree, replaceable, swap_in
from supcam.data.manifest import MANIFEST, manifest_hash, read_manifest, write_manifest
from supcam.data.reports import picture
from supcam.data.tables import read_table
from supcam.data.versions import require_checked_out
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.pages import render

SHEET_COLUMNS = ("crop_id", "path", "type", "suggestion", "confidence", "corrected")
_THUMBNAIL = 160


@dataclass(frozen=True)
class ReviewReport:
    """What a reviewed sheet changed: crops it lists, changes by ``old -> new`` type, and the new version."""

    reviewed: int
    changed: dict[str, int]
    manifest_hash: str
    versioned: bool

    def lines(self) -> list[str]:
        """The report as lines for a terminal."""
        moves = ", ".join(f"{count} {move}" for move, count in sorted(self.changed.items())) or "no label changed"
        recorded = ", version recorded in DVC" if self.versioned else ""
        return [f"{self.reviewed} crops reviewed: {moves}", f"manifest {self.manifest_hash[:12]}{recorded}"]


def suspicious_labels(frame: pd.DataFrame, probabilities: NDArray[np.floating]) -> pd.DataFrame:
    """Crops whose label disagrees with a confident prediction of a model that did not train on them.

    ``probabilities`` (N, 4) are out-of-fold, in the order of ``frame``. A prediction is confident when it reaches the
    mean probability of its type among crops labelled so (confident learning: Northcutt et al., JAIR 70, 2021).
    Returns the rows of ``SHEET_COLUMNS``, the largest lead over the label first; nothing is changed.

    Raises:
        UsageError: when the shapes disagree or the rows are not probabilities.
    """
    if probabilities.shape != (len(frame), len(TYPE_LABELS)):
        raise UsageError(
            f"probabilities have shape {probabilities.shape}; needed is ({len(frame)}, {len(TYPE_LABELS)})."
        )
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=1) - 1).max(initial=0) > 1e-3:
        raise UsageError("probabilities must be finite and sum to 1 in each row. Give the softmax of the logits.")
    labels = np.array([int(ClusterType.parse(name)) for name in frame["type"]], dtype=np.int64)
    thresholds = np.full(len(TYPE_LABELS), np.inf)  # a type that no crop bears is never suggested
    for kind in np.unique(labels):
        thresholds[kind] = probabilities[labels == kind, kind].mean()
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = confident.argmax(axis=1)
    own = probabilities[np.arange(len(frame)), labels]
    chosen = np.flatnonzero((confident.max(axis=1) >= 0) & (best != labels))
    chosen = chosen[np.argsort(own[chosen] - probabilities[chosen, best[chosen]], kind="stable")]
    out = frame.iloc[chosen][["crop_id", "path", "type"]].reset_index(drop=True)
    out["suggestion"] = [TYPE_LABELS[index] for index in best[chosen]]
    out["confidence"] = [f"{value:.3f}" for value in probabilities[chosen, best[chosen]]]
    return out.assign(corrected="")


def write_review(rows: pd.DataFrame, root: Path, out: Path) -> Path:
    """Write ``review.html`` with pictures and return ``review.csv``, to be filled in its column ``corrected``.

    ``root`` is the folder that the paths of the crops start from.
    """
    write_text(out / "review.csv", rows[list(SHEET_COLUMNS)].to_csv(index=False, lineterminator="\n"))
    shown = [{**row, "picture": picture(root, str(row["path"]), _THUMBNAIL)} for row in rows.to_dict("records")]
    write_text(out / "review.html", render("review.html", {"rows": shown, "types": TYPE_LABELS}))
    return out / "review.csv"


def apply_review(sheet: Path, data: Path) -> ReviewReport:
    """Take a reviewed sheet back: labels of its column ``corrected`` go into the manifest as a new data version.

    A corrected label counts as certain. If anything fails, manifest and ``.dvc`` file are as before.

    Raises:
        UsageError: for a sheet without its columns, an unknown crop or type, a label that changed since the sheet was
            written, or data that are not checked out or cannot be replaced.
    """
    rows, data, versioned = _read_sheet(sheet), replaceable(data), False
    with changing(data):
        require_checked_out(data)
        frame = read_manifest(data / MANIFEST)
        changed = _correct(frame, rows, sheet)
        if changed:
            with build_folder(data) as built:
                link_tree(data, built)
                write_manifest(frame, built / MANIFEST)
                versioned = swap_in(built, data)
    return ReviewReport(len(rows), dict(changed), manifest_hash(frame), versioned)


def _correct(frame: pd.DataFrame, rows: pd.DataFrame, sheet: Path) -> Counter[str]:
    """Write the corrected labels of a sheet into the rows of a manifest, and count the changes."""
    twice = frame.loc[frame["crop_id"].duplicated(), "crop_id"]
    if len(twice):
        raise UsageError(f"crop_id {twice.iloc[0]!r} is in the manifest twice. See: supcam validate")
    index_of = {crop_id: index for index, crop_id in enumerate(frame["crop_id"])}
    changed: Counter[str] = Counter()
    for row in rows.assign(line=rows.index, repeated=rows["crop_id"].duplicated()).to_dict("records"):
        crop_id, old, new = str(row["crop_id"]), str(row["type"]), str(row["corrected"])
        where = f"{sheet} line {row['line']}:"
        if row["repeated"]:
            raise UsageError(f"{where} {crop_id} is listed twice. Keep one line.")
        present = str(frame.at[index_of[crop_id], "type"]) if crop_id in index_of else "not in the data"
        if present != old:
            raise UsageError(f"{where} {crop_id} is {present}, the sheet says {old}. Write a new sheet.")
        try:
            label = ClusterType.parse(new).label if new else old
        except UsageError as error:
            raise UsageError(f"{where} {error}") from None
        if label != old:
            frame.at[index_of[crop_id], "type"] = label
            frame.at[index_of[crop_id], "label_certain"] = True
            changed[f"{old} -> {label}"] += 1
    return changed


def _read_sheet(sheet: Path) -> pd.DataFrame:
    what = f"review sheet {sheet}"
    try:
        rows = read_table(sheet.read_bytes(), what, "Save it as CSV in UTF-8.")
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}. Check the path.") from None
    missing = [name for name in ("crop_id", "type", "corrected") if name not in rows.columns]
    if missing:
        raise UsageError(f"{what} lacks the column {', '.join(missing)}. Fill in the sheet as it was written.")
    return rows
