"""Train, validation and test: grouped, stratified as well as groups allow, and stable when data are added."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.data.manifest import manifest_hash, write_manifest
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.settings import SplitSettings

PARTS = ("train", "validation", "test")
PAPER_SHARES = (0.8, 0.1, 0.1)

Counts = NDArray[np.float64]
Links = Iterable[Sequence[str]]
Division = dict[str, Any]

_DIVISION = ("protocol", "seed", "wanted", "crops", "split_hash")
_TRIES = 32
# Deviation from the wanted share of a type above which the report warns.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class SplitReport:
    """How the crops were divided, with the hashes that travel into every run and model.

    ``seed`` and ``wanted`` are of the division that placed the kept groups, as ``history`` knows it: one entry for each
    division from the start, the present one last.
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


def split_manifest(
    frame: pd.DataFrame,
    settings: SplitSettings,
    previous: pd.DataFrame | None = None,
    *,
    linked: Links = (),
    history: Sequence[Division] = (),
) -> tuple[pd.DataFrame, SplitReport]:
    """Add the column ``split`` (and ``group``) to a manifest.

    ``by_case`` keeps each case of a source in one part; crops without a case stand alone. ``paper`` ignores cases and
    takes 80/10/10 of each type. Either way crops with the same bytes, and those of ``linked`` (lists of crop ids),
    stay together. ``previous`` is the frame of an earlier split or its assignments: groups it knows never move,
    unless the protocol is another. ``history`` are the divisions that :func:`read_history` knows.

    Every part gets a group where there are as many, whatever the sizes of the groups.

    Raises:
        UsageError: when there are fewer than three groups to divide.
    """
    shares = PAPER_SHARES if settings.protocol == "paper" else _shares(settings)
    frame = frame.sort_values("path", kind="stable").reset_index(drop=True)
    group = group_crops(frame, by_case=settings.protocol == "by_case", linked=linked)
    if group.nunique() < len(PARTS):
        raise UsageError(
            f"split.protocol {settings.protocol!r} needs at least {len(PARTS)} cases or crops to divide, "
            f"found {group.nunique()}. Import more, or set split.protocol to paper."
        )
    warnings: list[str] = []
    lone = int((frame["case_id"] == "").sum())
    if lone and settings.protocol == "by_case":
        warnings.append(
            f"{lone} crops have no case and are divided one by one; crops of one patient may be in two parts"
        )
    known = {} if previous is None else _known_parts(frame, group, previous, settings, warnings)
    part = _assign(frame["type"], group, shares, settings.seed, known)
    out = frame.assign(split=part.map(dict(enumerate(PARTS))), group=group)
    out = _keep_apart(out, previous if known else None)
    return out, _report(out, settings, shares, len(known), list(history), warnings)


def fold_manifest(frame: pd.DataFrame, settings: SplitSettings, folds: int, *, linked: Links = ()) -> pd.DataFrame:
    """Add the column ``fold`` (0 to ``folds`` - 1), divided by the same protocol as the split.

    Raises:
        UsageError: for fewer than two folds or fewer groups than folds.
    """
    frame = frame.sort_values("path", kind="stable").reset_index(drop=True)
    groups = group_crops(frame, by_case=settings.protocol == "by_case", linked=linked).nunique()
    if not 2 <= folds <= groups:
        raise UsageError(f"folds = {folds} is not allowed; allowed are 2 to {groups}, the number of groups.")
    return frame.assign(fold=divide(frame, settings, (1 / folds,) * folds, linked=linked))


def divide(
    frame: pd.DataFrame, settings: SplitSettings, shares: Sequence[float], *, linked: Links = ()
) -> "pd.Series[int]":
    """Part (0 to ``len(shares)`` - 1) of each row: whole groups, and each source by itself.

    So every part has cases of every source, as far as a source has as many. The order of rows does not matter.
    """
    ordered = frame.sort_values("path", kind="stable")
    group = group_crops(ordered, by_case=settings.protocol == "by_case", linked=linked)
    source = ordered["source"].groupby(group).transform("first")
    parts = [
        _assign(ordered.loc[source == name, "type"], group[source == name], shares, settings.seed, {})
        for name in sorted(source.unique())
    ]
    part = pd.concat(parts).reindex(ordered.index)
    return _filled(part, ordered["type"], group, shares, {}).reindex(frame.index)


def write_split(frame: pd.DataFrame, report: SplitReport, out: Path) -> None:
    """Write ``manifest.csv``, ``split.json``, and what a later split knows this one by.

    Those are ``assignments.csv`` and ``history.json``.
    """
    write_manifest(frame, out / "manifest.csv")
    rows = frame.sort_values("crop_id")[["crop_id", "group", "split"]].assign(protocol=report.protocol)
    write_text(out / "assignments.csv", rows.to_csv(index=False, lineterminator="\n"))
    report.to_json(out / "split.json")
    write_text(out / "history.json", json.dumps(report.history, indent=2, sort_keys=True) + "\n")


def read_history(path: Path | None) -> list[Division]:
    """Read the divisions so far; none when there is no file or the path is None.

    Raises:
        UsageError: for a file that is no list of divisions.
    """
    if path is None or not path.is_file():
        return []
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
        entries = [{name: entry[name] for name in _DIVISION} for entry in history]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is no history of splits: {error!r}. Restore it: git checkout -- {path}") from None
    return entries


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
    content = {
        "protocol": settings.protocol,
        "seed": settings.seed,
        "manifest_hash": manifest_hash(frame),
        "folds": described,
    }
    write_text(out / "folds.json", json.dumps(content, indent=2) + "\n")
    return content


def read_assignments(path: Path | None) -> pd.DataFrame | None:
    """Read the assignments of an earlier split; None when there are none or the path is None.

    Raises:
        UsageError: for a file without its columns or with an unknown part.
    """
    if path is None or not path.is_file():
        return None
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = {"crop_id", "group", "split", "protocol"} - set(frame.columns)
    wrong = set() if missing else set(frame["split"]) - set(PARTS)
    if missing or wrong:
        what = f"lacks the column {', '.join(sorted(missing))}" if missing else f"names the part {sorted(wrong)[0]!r}"
        raise UsageError(f"{path} {what}. Restore it: git checkout -- {path}, or: supcam data resplit. Then: dvc repro")
    return frame


def group_crops(frame: pd.DataFrame, *, by_case: bool, linked: Links = ()) -> "pd.Series[str]":
    """Name of the group of each crop: the crops that must share a part.

    A group is named after its case (``source/case_id``) or, without one, after its first crop.
    """
    own = frame["source"] + "/" + frame["case_id"]
    keys = own.where(by_case & (frame["case_id"] != ""), "crop " + frame["crop_id"])
    parent = {key: key for key in keys}
    key_of = dict(zip(frame["crop_id"], keys, strict=True))
    same_bytes = frame.groupby("sha256")["crop_id"].agg(list).tolist()
    for ids in [*same_bytes, *linked]:
        joined = [key_of[crop_id] for crop_id in ids if crop_id in key_of]
        for other in joined[1:]:
            first, second = sorted((_root(parent, joined[0]), _root(parent, other)))
            parent[second] = first
    return keys.map(lambda key: _root(parent, key))


def _root(parent: dict[str, str], key: str) -> str:
    while parent[key] != key:
        parent[key] = parent[parent[key]]
        key = parent[key]
    return key


def _shares(settings: SplitSettings) -> tuple[float, ...]:
    return (1 - settings.validation - settings.test, settings.validation, settings.test)


def _known_parts(
    frame: pd.DataFrame,
    group: "pd.Series[str]",
    previous: pd.DataFrame,
    settings: SplitSettings,
    warnings: list[str],
) -> dict[str, int]:
    """Part of every group that an earlier split of this protocol has placed."""
    if "protocol" in previous and (previous["protocol"] != settings.protocol).any():
        return {}
    place = {part: index for index, part in enumerate(PARTS)}
    by_crop = dict(zip(previous["crop_id"], previous["split"].map(place), strict=True))
    by_group = dict(zip(previous["group"], previous["split"].map(place), strict=True)) if "group" in previous else {}
    own = frame["source"] + "/" + frame["case_id"]
    seen: dict[str, list[int]] = {}
    for crop_id, case, name in zip(frame["crop_id"], own, group, strict=True):
        for part in (by_crop.get(crop_id), by_group.get(case), by_group.get(name)):
            if part is not None:
                seen.setdefault(name, []).append(part)
    for name, parts in seen.items():
        if len(set(parts)) > 1:
            warnings.append(
                f"group {name!r} joins crops that an earlier split put apart; to divide anew: supcam data resplit"
            )
    return {name: max(set(parts), key=lambda part: (parts.count(part), -part)) for name, parts in seen.items()}


def _keep_apart(frame: pd.DataFrame, previous: pd.DataFrame | None) -> pd.DataFrame:
    """Leave every crop an earlier split knows where it was, even when a new link joins it to another part."""
    if previous is None:
        return frame
    before = frame["crop_id"].map(dict(zip(previous["crop_id"], previous["split"], strict=True)))
    return frame.assign(split=before.where(before.notna(), frame["split"]))


def _assign(
    types: "pd.Series[str]",
    group: "pd.Series[str]",
    shares: Sequence[float],
    seed: int,
    known: Mapping[str, int],
) -> "pd.Series[int]":
    """Part of each crop: whole groups by greedy search over several orders, then single crops by quota per type."""
    table = pd.crosstab(group, types).reindex(columns=list(TYPE_LABELS), fill_value=0)
    counts = table.to_numpy(dtype=np.float64)
    target = np.outer(shares, counts.sum(axis=0))
    filled = np.zeros_like(target)
    part = np.full(len(table), -1)
    names = [str(name) for name in table.index]
    for index, name in enumerate(names):
        if name in known:
            part[index] = known[name]
            filled[known[name]] += counts[index]
    open_groups = np.flatnonzero((part < 0) & (counts.sum(axis=1) > 1))
    part[open_groups] = _search(counts[open_groups], target, filled, seed)
    for position in open_groups:
        filled[part[position]] += counts[position]
    rng = np.random.default_rng(seed)
    for kind in range(counts.shape[1]):
        singles = np.flatnonzero((part < 0) & (counts[:, kind] > 0))
        part[singles] = _fill(rng.permutation(len(singles)), target[:, kind], filled[:, kind])
    placed = group.map(dict(zip(names, part, strict=True)))
    return _filled(placed, types, group, shares, known) if len(table) >= len(shares) else placed


def _filled(
    part: "pd.Series[int]",
    types: "pd.Series[str]",
    group: "pd.Series[str]",
    shares: Sequence[float],
    fixed: Mapping[str, int],
) -> "pd.Series[int]":
    """Give every part that got nothing the group whose move costs least; groups of ``fixed`` stay."""
    empty = [index for index in range(len(shares)) if not (part == index).any()]
    if not empty:
        return part
    table = pd.crosstab(group, types).reindex(columns=list(TYPE_LABELS), fill_value=0)
    counts = table.to_numpy(dtype=np.float64)
    place = np.array(part.groupby(group).first().reindex(table.index))
    target = np.outer(shares, counts.sum(axis=0))
    free = np.array([name not in fixed for name in table.index])
    for index in empty:
        now = np.stack([counts[place == other].sum(axis=0) for other in range(len(shares))])
        spare = np.flatnonzero(free & (np.bincount(place, minlength=len(shares))[place] > 1))
        costs = []
        for candidate in spare:
            moved = now.copy()
            moved[place[candidate]] -= counts[candidate]
            moved[index] += counts[candidate]
            costs.append(_cost(moved, target))
        if costs:
            place[spare[int(np.argmin(costs))]] = index
    return group.map(dict(zip(table.index, place, strict=True)))


def _search(counts: Counts, target: Counts, filled: Counts, seed: int) -> NDArray[np.int64]:
    """Place groups (G, 4) to come close to ``target`` (P, 4): the best of several greedy orders, then single moves."""
    best = np.zeros(len(counts), dtype=np.int64)
    best_cost = np.inf
    for attempt in range(_TRIES if len(counts) else 0):
        rng = np.random.default_rng((seed, attempt))
        jitter = counts.sum(axis=1) * rng.uniform(0.5, 1.5, len(counts))
        part, now = np.zeros(len(counts), dtype=np.int64), filled.copy()
        for position in np.argsort(-jitter, kind="stable"):
            part[position] = _cheapest(counts[position], target, now)
            now[part[position]] += counts[position]
        for position in rng.permutation(len(counts)):
            now[part[position]] -= counts[position]
            part[position] = _cheapest(counts[position], target, now)
            now[part[position]] += counts[position]
        cost = _cost(now, target)
        if cost < best_cost:
            best, best_cost = part, cost
    return best


def _cheapest(group: Counts, target: Counts, now: Counts) -> int:
    trial = now[None] + np.eye(len(target))[:, :, None] * group
    return int(np.argmin([_cost(candidate, target) for candidate in trial]))


def _cost(now: Counts, target: Counts) -> float:
    """Squared distance from the wanted counts, relative to each, and one more for each type a part lacks."""
    wanted = np.maximum(target, 1)
    lacking = (now == 0) & (target.sum(axis=0) > 0)
    return float((((now - target) / wanted) ** 2).sum() + lacking.sum())


def _fill(order: NDArray[np.int64], target: Counts, filled: Counts) -> NDArray[np.int64]:
    """Part of each single crop of one type: the open places of the parts, largest remainder first."""
    need = np.maximum(target - filled, 0)
    need = need / need.sum() * len(order) if need.sum() else np.full(len(target), len(order) / len(target))
    quota = np.floor(need).astype(int)
    for part in np.argsort(-(need - quota), kind="stable")[: len(order) - quota.sum()]:
        quota[part] += 1
    places = np.repeat(np.arange(len(target)), quota)
    out = np.empty(len(order), dtype=np.int64)
    out[order] = places
    return out


def _report(
    frame: pd.DataFrame,
    settings: SplitSettings,
    shares: Sequence[float],
    kept: int,
    history: list[Division],
    warnings: list[str],
) -> SplitReport:
    texts = {part: "\n".join(sorted(frame.loc[frame["split"] == part, "crop_id"])) for part in PARTS}
    split_hash = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    asked: Division = {
        "protocol": settings.protocol,
        "seed": settings.seed,
        "wanted": dict(zip(PARTS, shares, strict=True)),
    }
    if not kept:
        history.append({**asked, "crops": len(frame), "split_hash": split_hash})
    made = history[-1] if history else asked
    for name in ("seed", "wanted"):
        if made[name] != asked[name]:
            warnings.append(
                f"the split was made with {name} {made[name]}, the settings say {asked[name]}, which placed new groups "
                "only; to divide anew: supcam data resplit"
            )
    counts = _counts(frame)
    _warn_of_types(counts, asked["wanted"], warnings)
    groups = frame.groupby("split")["group"].nunique()
    return SplitReport(
        protocol=settings.protocol,
        seed=made["seed"],
        split_hash=split_hash,
        part_hashes={part: hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()},
        wanted=made["wanted"],
        counts=counts,
        groups={part: int(groups.get(part, 0)) for part in PARTS},
        kept=kept,
        assigned=frame["group"].nunique() - kept,
        history=history,
        warnings=warnings,
    )


def _counts(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    table = pd.crosstab(frame["split"], frame["type"]).reindex(
        index=list(PARTS), columns=list(TYPE_LABELS), fill_value=0
    )
    rows = zip(PARTS, table.to_numpy(), strict=True)
    return {part: dict(zip(TYPE_LABELS, row.tolist(), strict=True)) for part, row in rows}


def _warn_of_types(counts: dict[str, dict[str, int]], wanted: dict[str, float], warnings: list[str]) -> None:
    totals = {kind: sum(counts[part][kind] for part in PARTS) for kind in TYPE_LABELS}
    for part, share in wanted.items():
        for kind, total in totals.items():
            count = counts[part][kind]
            off = count / total - share if total else 0.0
            if total and not count:
                warnings.append(f"{part} lacks {kind} crops; its figures leave that type out")
            elif total and abs(off) > max(_TOLERANCE, 1 / total):
                warnings.append(f"{part} holds {count} of {total} {kind} crops, {off:+.0%} off the wanted {share:.0%}")
