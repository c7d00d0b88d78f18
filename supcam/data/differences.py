"""What changed between two versions of the data: crops that came or went, labels, cases and bytes."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from supcam.data.manifest import MANIFEST, read_manifest, reviewed_by
from supcam.data.versions import fetch_manifest

# A change by the column that shows it.
_COMPARED = {
    "type": "relabelled",
    "case_id": "case changed",
    "sha256": "bytes changed",
    "label_certain": "certainty changed",
    "reviewed": "reviewed",
}
COLUMNS = ("crop_id", "change", "before", "after")


@dataclass(frozen=True)
class DataDiff:
    """The changes between the versions ``before`` and ``after``, with the rows of :func:`diff_manifests`."""

    before: str
    after: str
    rows: pd.DataFrame

    def lines(self, limit: int = 50) -> list[str]:
        """The changes as lines for a terminal."""
        if self.rows.empty:
            return [f"{self.before} and {self.after} hold the same crops and labels"]
        counts = Counter(self.rows["change"])
        lines = [f"{self.before} -> {self.after}: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
        for row in self.rows.head(limit).to_dict("records"):
            values = f": {' -> '.join(filter(None, (row['before'], row['after'])))}" if row["after"] else ""
            lines.append(f"  {row['change']} {row['crop_id']}{values}")
        if len(self.rows) > limit:
            lines.append(f"  ... and {len(self.rows) - limit} more")
        return lines


def diff_versions(before: str, after: str, data: Path) -> DataDiff:
    """Compare two versions of ``data``: git revisions, data folders or manifests; ``workspace`` is what lies there now.

    Raises:
        UsageError: for a version that is neither.
        SupcamError: when DVC cannot get it.
    """
    return DataDiff(before, after, diff_manifests(_manifest_of(before, data), _manifest_of(after, data)))


def diff_manifests(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Changes between two manifests: crop_id, change (added, removed, or a value of ``_COMPARED``), before, after."""
    frames = (frame.drop_duplicates("crop_id").set_index("crop_id") for frame in (before, after))
    old, new = (_compared(frame).sort_index() for frame in frames)
    removed, added = old.index.difference(new.index), new.index.difference(old.index)
    rows = [(crop_id, "removed", kind, "") for crop_id, kind in old.loc[removed, "type"].items()]
    rows += [(crop_id, "added", "", kind) for crop_id, kind in new.loc[added, "type"].items()]
    both = old.index.intersection(new.index)
    for column, change in _COMPARED.items():
        shown = 12 if column == "sha256" else None
        pairs = zip(both, old.loc[both, column], new.loc[both, column], strict=True)
        rows += [(crop_id, change, one[:shown], two[:shown]) for crop_id, one, two in pairs if one != two]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compared(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``_COMPARED`` as text."""
    return frame.assign(reviewed=reviewed_by(frame))[list(_COMPARED)].astype(str)


def _manifest_of(version: str, data: Path) -> pd.DataFrame:
    if version == "workspace":
        return read_manifest(data / MANIFEST)
    for path in (Path(version) / MANIFEST, Path(version)):
        if path.is_file():
            return read_manifest(path)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / MANIFEST
        fetch_manifest(data, version, target)
        return read_manifest(target)
