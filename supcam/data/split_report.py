"""What a split says of itself, and the files a later split knows it by."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from supcam.cluster_type import TYPE_LABELS
from supcam.data.manifest import write_manifest
from supcam.errors import UsageError
from supcam.files import write_text

PARTS = ("train", "validation", "test")

Division = dict[str, Any]

_DIVISION = ("protocol", "seed", "wanted", "crops", "split_hash")
# Deviation from the wanted share of a type above which the report warns.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class SplitReport:
    """How the crops were divided, with the hashes that travel into every run and model.

    ``history`` has an entry for each division from the start, the present one last; ``seed`` and ``wanted`` (the share
    of each part) are those of the division that placed the kept groups. Hashes are SHA-256 over crop ids. ``counts``
    are crops by part and type, ``groups`` by part; an earlier split gave ``kept`` groups their part, this one
    ``assigned``. ``warnings`` are sentences for a person.
    """

    protocol: str
    seed: int
    split_hash: str
    part_hashes: dict[str, str]
    wanted: dict[str, float]
    counts: dict[str, dict[str, int]]
    groups: dict[str, int]
    kept: int
    assigned: int
    history: list[Division]
    warnings: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """The split in one line, with a line for each warning."""
        sizes = ", ".join(f"{part} {sum(self.counts[part].values())}" for part in PARTS)
        line = f"{self.protocol}: {sizes}; {self.kept} groups kept, {self.assigned} assigned"
        return "\n".join([line, *(f"warning: {text}" for text in self.warnings)])

    def to_json(self, path: Path) -> None:
        """Write the report; equal splits give equal bytes, whether a group was kept or assigned just now."""
        content = {key: value for key, value in asdict(self).items() if key not in ("kept", "assigned")}
        write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def describe_split(
    frame: pd.DataFrame, asked: Division, kept: int, history: Sequence[Division], warnings: Sequence[str]
) -> SplitReport:
    """Report of a manifest with the columns ``split`` and ``group``, ``kept`` groups of which had their part before.

    ``asked`` are the protocol, seed and wanted shares of the settings. Without a kept group the division is new, and
    becomes the last entry of the history.
    """
    texts, found = _texts(frame), split_hash(frame)
    divisions = [*history] if kept else [*history, {**asked, "crops": len(frame), "split_hash": found}]
    made = divisions[-1] if divisions else asked
    counts = count_parts(frame)
    groups = frame.groupby("split")["group"].nunique().reindex(PARTS, fill_value=0)
    return SplitReport(
        protocol=asked["protocol"],
        seed=made["seed"],
        split_hash=found,
        part_hashes={part: hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()},
        wanted=made["wanted"],
        counts=counts,
        groups={str(part): int(count) for part, count in groups.items()},
        kept=kept,
        assigned=frame["group"].nunique() - kept,
        history=divisions,
        warnings=[*warnings, *_settings_not_used(made, asked), *_uneven_types(counts, asked["wanted"])],
    )


def split_hash(frame: pd.DataFrame) -> str:
    """SHA-256 over the ids of the crops of each part of a manifest with the column ``split``."""
    return hashlib.sha256(json.dumps(_texts(frame), sort_keys=True).encode()).hexdigest()


def _texts(frame: pd.DataFrame) -> dict[str, str]:
    return {part: "\n".join(sorted(frame.loc[frame["split"] == part, "crop_id"])) for part in PARTS}


def count_parts(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Crops of each part by type, also those of which there is none."""
    pairs = frame.groupby(["split", "type"]).size()
    return {part: {kind: int(pairs.get((part, kind), 0)) for kind in TYPE_LABELS} for part in PARTS}


def write_split(frame: pd.DataFrame, report: SplitReport, out: Path) -> None:
    """Write ``manifest.csv`` and ``split.json``, and ``assignments.csv`` and ``history.json`` for a later split."""
    write_manifest(frame, out / "manifest.csv")
    rows = frame.sort_values("crop_id")[["crop_id", "group", "split"]].assign(protocol=report.protocol)
    write_text(out / "assignments.csv", rows.to_csv(index=False, lineterminator="\n"))
    report.to_json(out / "split.json")
    write_text(out / "history.json", json.dumps(report.history, indent=2, sort_keys=True) + "\n")


def read_assignments(path: Path | None) -> pd.DataFrame | None:
    """Read the assignments of an earlier split; None when there are none.

    Raises:
        UsageError: for a file without its columns or with an unknown part.
    """
    if path is None or not path.is_file():
        return None
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = {"crop_id", "group", "split", "protocol"} - set(frame.columns)
    wrong = set() if missing else set(frame["split"]) - set(PARTS)
    if missing or wrong:
        what = f"lacks the column {', '.join(sorted(missing))}" if missing else f"names the part {min(wrong)!r}"
        raise UsageError(f"{path} {what}. Restore it: git checkout -- {path}, or: supcam data resplit. Then: dvc repro")
    return frame


def read_history(path: Path | None) -> list[Division]:
    """Read the divisions so far; none when there is no file.

    Raises:
        UsageError: for a file that is not a list of divisions.
    """
    if path is None or not path.is_file():
        return []
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
        return [{name: entry[name] for name in _DIVISION} for entry in history]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not a history of splits: {error!r}. Restore it: git checkout -- {path}") from None


def _settings_not_used(made: Division, asked: Division) -> list[str]:
    return [
        f"the split was made with {name} {made[name]}, the settings say {asked[name]}, which placed new groups only; "
        "to divide from scratch: supcam data resplit"
        for name in ("seed", "wanted")
        if made[name] != asked[name]
    ]


def _uneven_types(counts: Mapping[str, Mapping[str, int]], wanted: Mapping[str, float]) -> list[str]:
    totals = {kind: sum(kinds[kind] for kinds in counts.values()) for kind in TYPE_LABELS}
    warnings = []
    for part, share in wanted.items():
        for kind, total in totals.items():
            count = counts[part][kind]
            if not total:
                continue
            off = count / total - share
            if not count:
                warnings.append(f"{part} lacks {kind} crops; its metrics leave that type out")
            elif abs(off) > max(_TOLERANCE, 1 / total):
                warnings.append(f"{part} holds {count} of {total} {kind} crops, {off:+.0%} off the wanted {share:.0%}")
    return warnings
