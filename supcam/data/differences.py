"""What changed between two versions of the data: crops that came or went, labels, cases and bytes."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from supcam.data.manifest import MANIFEST, read_manifest
from supcam.data.versions import fetch_manifest
from supcam.errors import UsageError

_COMPARED = {
    "type": "relabelled",
    "case_id": "case changed",
    "sha256": "bytes changed",
    "label_certain": "certainty changed",
}
COLUMNS = ("crop_id", "change", "before", "after")


@dataclass(frozen=True)
class DataDiff:
    """``rows`` has one line for each change: crop_id, change, before, after."""

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
            values = f": {row['before']} -> {row['after']}" if row["before"] and row["after"] else ""
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
    """Changes between two manifests, by crop id: columns crop_id, change, before, after."""
    old = before.drop_duplicates("crop_id").set_index("crop_id")
    new = after.drop_duplicates("crop_id").set_index("crop_id")
    rows = [
        (crop_id, "removed", str(old.at[crop_id, "type"]), "") for crop_id in sorted(set(old.index) - set(new.index))
    ]
    rows += [
        (crop_id, "added", "", str(new.at[crop_id, "type"])) for crop_id in sorted(set(new.index) - set(old.index))
    ]
    both = sorted(set(old.index) & set(new.index))
    for column, change in _COMPARED.items():
        pair = pd.DataFrame({"before": old.loc[both, column].astype(str), "after": new.loc[both, column].astype(str)})
        for crop_id, one, two in pair[pair["before"] != pair["after"]].itertuples(name=None):
            rows.append(
                (crop_id, change, one[:12] if column == "sha256" else one, two[:12] if column == "sha256" else two)
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _manifest_of(version: str, data: Path) -> pd.DataFrame:
    if version == "workspace":
        return read_manifest(data / MANIFEST)
    path = Path(version)
    if path.is_dir() and (path / MANIFEST).is_file():
        return read_manifest(path / MANIFEST)
    if path.is_file():
        return read_manifest(path)
    if version.startswith("-"):
        raise UsageError(
            f"version {version!r} is not a git revision. Give a commit, a tag, a data folder or 'workspace'."
        )
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / MANIFEST
        fetch_manifest(data, version, target)
        return read_manifest(target)
