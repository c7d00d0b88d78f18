"""Suspicious labels of the data, found from out-of-fold predictions, and decisions of people taken into the data."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.data.folder import build_folder, changing, link_tree, replaceable, swap_in
from supcam.data.importers import import_sources
from supcam.data.manifest import MANIFEST, manifest_hash, read_manifest, write_manifest
from supcam.data.versions import require_checked_out
from supcam.errors import UsageError
from supcam.evaluation.cases import actual_types
from supcam.evaluation.metrics import classification_metrics
from supcam.files import write_text
from supcam.review.sheet import NO_CLUSTER, UNSURE, crop_names, read_sheet

SOURCE = "review"
# Below it a suggestion is about as often wrong as the label that it contradicts (docs/review.md).
_TRUSTED_SENSITIVITY = 0.75


@dataclass(frozen=True)
class ReviewReport:
    """What reviewed sheets changed.

    ``reviewed`` crops were listed; ``changed`` counts labels by ``old -> new``, ``outcomes`` everything else that was
    decided, by what was done. ``manifest_hash`` is that of the data afterwards; ``versioned`` says whether DVC
    recorded a new version.
    """

    reviewed: int
    changed: dict[str, int]
    manifest_hash: str
    versioned: bool
    outcomes: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report as lines for a terminal."""
        moves = ", ".join(f"{count} {move}" for move, count in sorted(self.changed.items())) or "no label changed"
        others = "".join(f"; {count} {what}" for what, count in sorted(self.outcomes.items()))
        recorded = ", version recorded in DVC" if self.versioned else ""
        return [f"{self.reviewed} crops reviewed: {moves}{others}", f"manifest {self.manifest_hash[:12]}{recorded}"]


def suspicious_labels(frame: pd.DataFrame, probabilities: NDArray[np.floating]) -> pd.DataFrame:
    """Crops whose label disagrees with a confident prediction of a model that did not train on them.

    ``probabilities`` (N, 4) are out-of-fold, in the order of ``frame``. A prediction is confident when it reaches the
    mean probability of its type among crops labelled so (confident learning: Northcutt et al., JAIR 70, 2021).
    Returns rows of a review sheet, the largest lead over the label first; nothing is changed.

    Raises:
        UsageError: when the shapes disagree or the rows are not probabilities.
    """
    if probabilities.shape != (len(frame), len(TYPE_LABELS)):
        raise UsageError(
            f"probabilities have shape {probabilities.shape}; needed is ({len(frame)}, {len(TYPE_LABELS)})."
        )
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=1) - 1).max(initial=0) > 1e-3:
        raise UsageError("probabilities must be finite and sum to 1 in each row. Give the softmax of the logits.")
    labels = actual_types(frame)
    thresholds = np.full(len(TYPE_LABELS), np.inf)  # a type that no crop bears is never suggested
    for kind in np.unique(labels):
        thresholds[kind] = probabilities[labels == kind, kind].mean()
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = confident.argmax(axis=1)
    own = probabilities[np.arange(len(frame)), labels]
    chosen = np.flatnonzero((confident.max(axis=1) >= 0) & (best != labels))
    chosen = chosen[np.argsort(own[chosen] - probabilities[chosen, best[chosen]], kind="stable")]
    out = frame.iloc[chosen][["crop_id", "path", "type", "case_id", "source"]].rename(columns={"case_id": "case"})
    out = out.reset_index(drop=True)
    out["suggestion"] = [TYPE_LABELS[index] for index in best[chosen]]
    out["confidence"] = [f"{value:.3f}" for value in probabilities[chosen, best[chosen]]]
    return out


def trust(frame: pd.DataFrame, probabilities: NDArray[np.floating], suspicious: int) -> list[str]:
    """How far suggestions can be relied on, in sentences for the reader.

    ``frame`` and ``probabilities`` (N, 4) are those of :func:`suspicious_labels`, which found ``suspicious`` rows.
    """
    labels = actual_types(frame)
    values = classification_metrics(labels, np.asarray(probabilities, dtype=np.float64)).values
    sensitivity = values["macro_sensitivity"] or 0.0
    notes = [
        f"{suspicious} of {len(frame)} labels are contradicted by classifiers trained on other cases; "
        f"they agree with {values['accuracy']:.1%} of all labels (macro sensitivity {sensitivity:.2f})."
    ]
    if sensitivity < _TRUSTED_SENSITIVITY:
        notes.append(
            f"These classifiers are weak (macro sensitivity below {_TRUSTED_SENSITIVITY}): most suggestions may be "
            "wrong, whatever their confidence. Train longer (--epochs) or on more crops before relying on them."
        )
    return notes


def apply_review(sheets: Sequence[Path], data: Path) -> ReviewReport:
    """Take the decisions of reviewed sheets into the data folder as a new version of it.

    Crops of the data get the corrected label, which then counts as certain; *unsure* makes a label uncertain, *not a
    cluster* takes the crop out. Crops that production answered (rows without ``crop_id``) are imported with the
    label a person gave; those unsure or not clusters stay out. Reader and date become columns of the manifest.
    If anything fails, manifest and ``.dvc`` file are as before.

    Raises:
        UsageError: for a sheet without its columns, an unknown crop or decision, a label that changed since the sheet
            was written, a crop decided in different ways, data that are not checked out, or
            that cannot be replaced, or sheets of both kinds.
        ImportRefused: for crops that import refuses.
    """
    rows, data = _one_decision_each(sheets), replaceable(data)
    of_data = rows["crop_id"] != ""
    if of_data.any() and not of_data.all():
        raise UsageError(
            f"{', '.join(map(str, sheets))}: crops of the data (with crop_id) and new ones (without) are mixed. "
            "Apply the sheets one after the other."
        )
    return _relabel(rows, data) if of_data.any() or rows.empty else _take_in(rows, data)


def _one_decision_each(sheets: Sequence[Path]) -> pd.DataFrame:
    """The rows of all sheets, once for each crop; where it was read from stands in ``where``."""
    tables = []
    for sheet in sheets:
        table = read_sheet(sheet)
        table["where"] = [f"{sheet} line {line}:" for line in table.index]
        table["path"] = [str(sheet.resolve().parent / path) for path in table["path"]]
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    rows["name"] = crop_names(rows)
    decided = rows[rows["corrected"] != ""]
    for name, group in decided.groupby("name", sort=False):
        if group["corrected"].nunique() > 1:
            first, second = group.drop_duplicates("corrected").to_dict("records")[:2]
            raise UsageError(
                f"{second['where']} {name} is {second['corrected']}, but {str(first['where'])[:-1]} says "
                f"{first['corrected']}. Settle it: supcam review compare"
            )
    open_rows = rows[~rows["name"].isin(decided["name"])]
    return pd.concat([decided, open_rows]).drop_duplicates("name").sort_index()


def _relabel(rows: pd.DataFrame, data: Path) -> ReviewReport:
    """Decisions about crops of the data."""
    versioned = False
    with changing(data):
        require_checked_out(data)
        before = read_manifest(data / MANIFEST)
        frame = before.copy()
        changed, outcomes = _correct(frame, rows)
        removed = frame["crop_id"].isin(rows.loc[rows["corrected"] == NO_CLUSTER, "crop_id"])
        kept = frame[~removed]
        if kept.empty and len(rows):
            raise UsageError("every crop of the data is taken out as not a cluster; nothing was changed.")
        if removed.any() or not frame.equals(before):
            with build_folder(data) as built:
                link_tree(data, built)
                for path in frame.loc[removed, "path"]:
                    (built / path).unlink(missing_ok=True)
                write_manifest(kept, built / MANIFEST)
                versioned = swap_in(built, data)
    return ReviewReport(len(rows), dict(changed), manifest_hash(kept), versioned, dict(outcomes))


def _correct(frame: pd.DataFrame, rows: pd.DataFrame) -> tuple[Counter[str], Counter[str]]:
    """Write the decisions of sheets into the rows of a manifest; counts of changed labels, and of other outcomes."""
    twice = frame.loc[frame["crop_id"].duplicated(), "crop_id"]
    if len(twice):
        raise UsageError(f"crop_id {twice.iloc[0]!r} is in the manifest twice. See: supcam validate")
    index_of = {crop_id: index for index, crop_id in enumerate(frame["crop_id"])}
    changed: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for row in rows.to_dict("records"):
        crop_id, old, new = str(row["crop_id"]), str(row["type"]), str(row["corrected"])
        index = index_of.get(crop_id)
        present = "not in the data" if index is None else str(frame.at[index, "type"])
        if present != old:
            raise UsageError(f"{row['where']} {crop_id} is {present}, the sheet says {old}. Write a new sheet.")
        if not new:
            continue
        frame.at[index, "label_certain"] = new != UNSURE
        for name, value in (("reader", row["reader"]), ("reviewed", row["date"])):
            if value:
                frame[name] = frame[name].fillna("") if name in frame.columns else ""
                frame.at[index, name] = value
        if new == NO_CLUSTER:
            outcomes["taken out as not a cluster"] += 1
        elif new == UNSURE:
            outcomes["now uncertain"] += 1
        elif new == old:
            outcomes["confirmed"] += 1
        else:
            frame.at[index, "type"] = new
            changed[f"{old} -> {new}"] += 1
    return changed, outcomes


def _take_in(rows: pd.DataFrame, data: Path) -> ReviewReport:
    """Import the crops of production that a person gave a type."""
    labelled = rows[rows["corrected"].isin(TYPE_LABELS)]
    outcomes = Counter(rows["corrected"].map({UNSURE: "left out as unsure", NO_CLUSTER: "left out as not a cluster"}))
    outcomes = Counter({what: count for what, count in outcomes.items() if isinstance(what, str)})
    if labelled.empty:
        return ReviewReport(len(rows), {}, manifest_hash(read_manifest(data / MANIFEST)), False, dict(outcomes))
    with tempfile.TemporaryDirectory(prefix="supcam-review-") as folder:
        sources = [_source(name, group, Path(folder)) for name, group in labelled.groupby(_sources_of(labelled))]
        report = import_sources(sources, data)
    outcomes["new crops"] = report.added
    outcomes["already there"] = report.unchanged
    moves = Counter(
        f"{old} -> {new}" for old, new in zip(labelled["type"], labelled["corrected"], strict=True) if old != new
    )
    return ReviewReport(len(rows), dict(moves), report.manifest_hash, report.versioned, dict(+outcomes))


def _sources_of(rows: pd.DataFrame) -> "pd.Series[str]":
    return rows["source"].where(rows["source"] != "", SOURCE)


def _source(name: str, rows: pd.DataFrame, folder: Path) -> Path:
    """A folder that import takes: the crops, under names that their bytes decide, and their labels."""
    source = folder / name
    if source.parent != folder or name in (".", ".."):
        raise UsageError(f"{rows['where'].iloc[0]} source {name!r} is not the name of a folder. Correct it.")
    source.mkdir()
    table = []
    for row in rows.to_dict("records"):
        path = Path(row["path"])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{row['where']} {path} cannot be read: {error.strerror}. Keep the crops beside the sheet."
            ) from None
        # The same crop reviewed again has the same name, and another crop of that name another.
        kept = f"{hashlib.sha256(content).hexdigest()[:12]}-{path.name}"
        (source / kept).write_bytes(content)
        table.append(
            {"path": kept, "type": row["corrected"], "case": row["case"], "label_certain": "yes",
             "reader": row["reader"], "reviewed": row["date"]}
        )  # fmt: skip
    write_text(source / "labels.csv", pd.DataFrame(table).to_csv(index=False, lineterminator="\n"))
    return source
