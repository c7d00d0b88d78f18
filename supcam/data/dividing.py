"""The search that divides groups of crops: every part comes close to its share of every type."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS

Counts = NDArray[np.float64]

_TRIES = 32


def divide_groups(
    types: "pd.Series[str]",
    group: "pd.Series[str]",
    shares: Sequence[float],
    seed: int,
    known: Mapping[str, int],
) -> "pd.Series[int]":
    """Part (0 to ``len(shares)`` - 1) of each crop, the same for all crops of a group.

    ``types`` and ``group`` have an entry for each crop, (N,); ``shares``, one for each part, sum to 1. Groups of
    several crops go first, by greedy search over several orders drawn from ``seed``: they are hard to fit. Single crops
    then make up what is missing of their type, by quota. Groups of ``known`` have their part already.
    """
    table = _count_types(types, group)
    counts = table.to_numpy(dtype=np.float64)
    target = np.outer(shares, counts.sum(axis=0))
    part = np.array([known.get(str(name), -1) for name in table.index])
    several = np.flatnonzero((part < 0) & (counts.sum(axis=1) > 1))
    part[several] = _search(counts[several], target, _held(part, counts, len(shares)), seed)
    held = _held(part, counts, len(shares))
    rng = np.random.default_rng(seed)
    for kind in range(counts.shape[1]):
        singles = np.flatnonzero((part < 0) & (counts[:, kind] > 0))
        part[singles] = _fill(rng.permutation(len(singles)), target[:, kind], held[:, kind])
    divided = group.map(dict(zip(table.index, part, strict=True)))
    return fill_empty_parts(divided, types, group, shares, known) if len(table) >= len(shares) else divided


def fill_empty_parts(
    part: "pd.Series[int]",
    types: "pd.Series[str]",
    group: "pd.Series[str]",
    shares: Sequence[float],
    fixed: Collection[str],
) -> "pd.Series[int]":
    """Give every part that got nothing the group whose move costs least; groups named in ``fixed`` stay."""
    empty = [index for index in range(len(shares)) if not (part == index).any()]
    if not empty:
        return part
    table = _count_types(types, group)
    counts = table.to_numpy(dtype=np.float64)
    part_of = np.array(part.groupby(group).first().reindex(table.index))
    target = np.outer(shares, counts.sum(axis=0))
    free = np.array([name not in fixed for name in table.index])
    for index in empty:
        held = _held(part_of, counts, len(shares))
        # A part must not be emptied to fill another.
        spare = np.flatnonzero(free & (np.bincount(part_of, minlength=len(shares))[part_of] > 1))
        costs = []
        for candidate in spare:
            moved = held.copy()
            moved[part_of[candidate]] -= counts[candidate]
            moved[index] += counts[candidate]
            costs.append(_cost(moved, target))
        if costs:
            part_of[spare[int(np.argmin(costs))]] = index
    return group.map(dict(zip(table.index, part_of, strict=True)))


def _count_types(types: "pd.Series[str]", group: "pd.Series[str]") -> pd.DataFrame:
    """Crops of each type (columns) in each group (rows, sorted by name)."""
    return pd.crosstab(group, types).reindex(columns=list(TYPE_LABELS), fill_value=0)


def _held(part: NDArray[np.int64], counts: Counts, parts: int) -> Counts:
    """Crops of each type that each part holds, (P, 4)."""
    return np.stack([counts[part == index].sum(axis=0) for index in range(parts)])


def _search(counts: Counts, target: Counts, held: Counts, seed: int) -> NDArray[np.int64]:
    """Parts of groups (G, 4) that come close to ``target`` (P, 4): the best of several greedy orders.

    The largest groups come first, in an order jittered by the seed; then each group may move once more.
    """
    best = np.zeros(len(counts), dtype=np.int64)
    best_cost = np.inf
    for attempt in range(_TRIES if len(counts) else 0):
        rng = np.random.default_rng((seed, attempt))
        jitter = counts.sum(axis=1) * rng.uniform(0.5, 1.5, len(counts))
        part, now = np.full(len(counts), -1), held.copy()
        for position in [*np.argsort(-jitter, kind="stable"), *rng.permutation(len(counts))]:
            if part[position] >= 0:
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


def _fill(order: NDArray[np.int64], target: Counts, held: Counts) -> NDArray[np.int64]:
    """Part of each single crop of one type: what the parts still need, largest remainder first."""
    need = np.maximum(target - held, 0)
    need = need / need.sum() * len(order) if need.sum() else np.full(len(target), len(order) / len(target))
    quota = np.floor(need).astype(int)
    for part in np.argsort(-(need - quota), kind="stable")[: len(order) - quota.sum()]:
        quota[part] += 1
    out = np.empty(len(order), dtype=np.int64)
    out[order] = np.repeat(np.arange(len(target)), quota)
    return out
