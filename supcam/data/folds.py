"""Folds for out-of-fold predictions: divided by the protocol of the split, each source by itself."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from supcam.cluster_type import TYPE_LABELS
from supcam.data.dividing import divide_groups, fill_empty_parts
from supcam.data.groups import Links, groups_of
from supcam.data.manifest import manifest_hash
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.settings import SplitSettings


def divide(
    frame: pd.DataFrame, settings: SplitSettings, shares: Sequence[float], *, linked: Links = ()
) -> "pd.Series[int]":
    """Part (0 to ``len(shares)`` - 1) of each row: whole groups, and each source by itself.

    So every part has cases of every source, as far as a source has as many. The order of rows does not matter.
    """
    ordered = frame.sort_values("path", kind="stable")
    group = groups_of(ordered, settings, linked)
    # A group that joins crops of two sources counts as one of the first, or its crops would be placed twice.
    source = ordered["source"].groupby(group).transform("first")
    parts = [
        divide_groups(ordered.loc[source == name, "type"], group[source == name], shares, settings.seed, {})
        for name in sorted(source.unique())
    ]
    part = pd.concat(parts).reindex(ordered.index)
    return fill_empty_parts(part, ordered["type"], group, shares, ()).reindex(frame.index)


def fold_manifest(frame: pd.DataFrame, settings: SplitSettings, folds: int, *, linked: Links = ()) -> pd.DataFrame:
    """Add the column ``fold`` (0 to ``folds`` - 1), divided by the same protocol as the split.

    Raises:
        UsageError: for fewer than two folds or fewer groups than folds.
    """
    frame = frame.sort_values("path", kind="stable").reset_index(drop=True)
    groups = groups_of(frame, settings, linked).nunique()
    if not 2 <= folds <= groups:
        raise UsageError(f"folds = {folds} is not allowed; allowed are 2 to {groups}, the number of groups.")
    return frame.assign(fold=divide(frame, settings, (1 / folds,) * folds, linked=linked))


def write_folds(frame: pd.DataFrame, settings: SplitSettings, out: Path) -> dict[str, Any]:
    """Write the folds of :func:`fold_manifest`: ``fold_N.txt`` with the ids each holds out, and ``folds.json``.

    Returns the content of ``folds.json``: protocol, seed, and for each fold its crops by type and the hash of its list.
    """
    described = []
    for number, rows in frame.groupby("fold"):
        text = "".join(f"{crop_id}\n" for crop_id in sorted(rows["crop_id"]))
        write_text(out / f"fold_{number}.txt", text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        kinds = {kind: int((rows["type"] == kind).sum()) for kind in TYPE_LABELS}
        described.append({"fold": int(str(number)), "ids": f"fold_{number}.txt", "sha256": digest, "counts": kinds})
    origin = {"protocol": settings.protocol, "seed": settings.seed, "manifest_hash": manifest_hash(frame)}
    content = {**origin, "folds": described}
    write_text(out / "folds.json", json.dumps(content, indent=2) + "\n")
    return content
