"""Have the answers moved away from those that were validated?

Four quantities are compared with the reference: shares of the types, the distribution of confidence, the share of crops
that need review and the share unlike the training crops. How large a difference chance alone brings is found by drawing
pairs of a reference and a week from the reference: cases first, then the crops of each, since crops of one case
resemble each other. Where the answers name no cases, cases of the reference's size are assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.repeats import holm
from supcam.serving.gate import UNLIKE_TRAINING
from supcam.settings import WatchSettings

Floats = NDArray[np.float64]

_KINDS = (*TYPE_LABELS, "")
_BINS = np.linspace(0.25, 1.0, 31)[1:-1]  # confidence of four types is never below a quarter
_DRAWS = 2000

QUANTITIES: dict[str, str] = {
    "types": "shares of the types: half the sum of their absolute differences",
    "confidence": "confidence: largest difference of the cumulative distributions (Kolmogorov-Smirnov)",
    "review": "rise of the share that needs review",
    "unlike": "rise of the share unlike the training crops",
}


@dataclass(frozen=True)
class Comparison:
    """One quantity: its distance from the reference (0-1), the limit, and how often chance alone reaches it.

    ``p`` is adjusted for the number of quantities (Holm). There is an ``alarm`` where the distance is beyond the limit
    and chance explains it less often than the settings allow.
    """

    name: str
    distance: float
    limit: float
    p: float
    alarm: bool


@dataclass(frozen=True)
class Shift:
    """All quantities of a group of answers, and the shares behind them by name, of the reference and of the answers."""

    group: str
    crops: int
    comparisons: tuple[Comparison, ...]
    shares: dict[str, tuple[float, float]]

    @property
    def alarms(self) -> list[Comparison]:
        """Quantities beyond their limit."""
        return [comparison for comparison in self.comparisons if comparison.alarm]


def compare_with_reference(
    reference: pd.DataFrame, answers: pd.DataFrame, settings: WatchSettings, group: str = "all"
) -> Shift:
    """Compare answers with those of the reference, see :func:`.answers.read_answers`; cases are those of ``case``.

    Raises:
        UsageError: for a reference or answers without crops.
    """
    if reference.empty or answers.empty:
        empty = "the reference" if reference.empty else f"group {group!r}"
        raise UsageError(f"{empty} holds no crop that could be read. Give answers of at least one crop.")
    crops, member = _crops(reference), _cases(reference)
    distances = _distances(crops.sum(axis=0)[None], _crops(answers).sum(axis=0)[None])[0]
    drawn = _by_chance(crops, member, _case_sizes(answers, np.bincount(member)), settings.seed)
    chance = (1 + (drawn >= distances - 1e-12).sum(axis=0)) / (1 + len(drawn))
    adjusted = holm(chance.tolist())
    limits = [getattr(settings.limits, name) for name in QUANTITIES]
    comparisons = tuple(
        Comparison(name, float(distance), limit, float(p), bool(distance > limit and p <= settings.false_alarms))
        for name, distance, limit, p in zip(QUANTITIES, distances, limits, adjusted, strict=True)
    )
    return Shift(group, len(answers), comparisons, _shares(reference, answers))


def compare_groups(reference: pd.DataFrame, answers: pd.DataFrame, settings: WatchSettings, by: str) -> list[Shift]:
    """The same for each value of the column ``by``, such as ``case``, ``source`` or ``day``, with enough crops.

    All groups share the allowed false alarms.

    Raises:
        UsageError: when the answers have no such column.
    """
    if by not in answers.columns:
        raise UsageError(f"the answers have no column {by!r}; they have {', '.join(answers.columns)}.")
    groups = {str(name): rows for name, rows in answers.groupby(by, sort=True) if len(rows) >= settings.min_crops}
    shared = settings.model_copy(update={"false_alarms": settings.false_alarms / max(1, len(groups))})
    return [compare_with_reference(reference, rows, shared, name) for name, rows in groups.items()]


def _crops(frame: pd.DataFrame) -> NDArray[np.int64]:
    """What is counted, one row a crop: its type, its bin of confidence, needs review, unlike the training crops."""
    kinds = pd.Categorical(frame["type"], categories=_KINDS).codes
    typed = frame["confidence"].notna().to_numpy()
    bins = np.digitize(frame["confidence"].fillna(0).to_numpy(), _BINS)
    out = np.zeros((len(frame), len(_KINDS) + len(_BINS) + 3), dtype=np.int64)
    rows = np.arange(len(frame))
    out[rows, kinds] = 1
    out[rows[typed], len(_KINDS) + bins[typed]] = 1
    out[:, -2] = frame["needs_review"]
    out[:, -1] = frame["reason"].str.contains(UNLIKE_TRAINING, regex=False)
    return out


def _cases(reference: pd.DataFrame) -> NDArray[np.int64]:
    """Number of the case of each crop (N,); one and the same where no crop names any: then crops are independent."""
    if "case" not in reference.columns:
        return np.zeros(len(reference), dtype=np.int64)
    return np.unique(reference["case"].fillna("").to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)


def _case_sizes(answers: pd.DataFrame, reference: NDArray[np.int64]) -> NDArray[np.int64]:
    """Crops of each case of the answers; where they name none, so many as a crop of the reference finds in its own."""
    if "case" in answers.columns and answers["case"].fillna("").ne("").all():
        return np.asarray(answers["case"].value_counts(), dtype=np.int64)
    size = (reference**2).sum() / reference.sum()
    member = np.arange(len(answers)) % max(1, round(len(answers) / size))
    return np.asarray(np.bincount(member), dtype=np.int64)


def _distances(before: NDArray[np.int64], now: NDArray[np.int64]) -> Floats:
    """Distances (N, 4) of counts (N, K), in the order of ``QUANTITIES``."""
    kinds = slice(0, len(_KINDS))
    bins = slice(len(_KINDS), -2)
    total = [np.maximum(counts[:, kinds].sum(axis=1, keepdims=True), 1) for counts in (before, now)]
    types = np.abs(before[:, kinds] / total[0] - now[:, kinds] / total[1]).sum(axis=1) / 2
    typed = [np.maximum(counts[:, bins].sum(axis=1, keepdims=True), 1) for counts in (before, now)]
    cumulative = (before[:, bins] / typed[0]).cumsum(axis=1) - (now[:, bins] / typed[1]).cumsum(axis=1)
    rises = now[:, -2:] / total[1] - before[:, -2:] / total[0]
    return np.column_stack([types, np.abs(cumulative).max(axis=1), rises])


def _by_chance(crops: NDArray[np.int64], member: NDArray[np.int64], week: NDArray[np.int64], seed: int) -> Floats:
    """Distances (N, 4) between a reference and a week, both drawn from the cases of ``crops`` (M, K).

    ``member`` (M,) is the case of each crop, ``week`` the number of crops of each case of the week.
    """
    rng, cases = np.random.default_rng(seed), np.bincount(member)
    kinds = [np.unique(crops[member == case], axis=0, return_counts=True) for case in range(len(cases))]
    if len(cases) == 1:
        return _distances(_drawn(rng, kinds, cases), _drawn(rng, kinds, week))
    whole = np.stack([counts @ rows for rows, counts in kinds])
    references = rng.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=_DRAWS) @ whole
    # So few cases vary less among themselves than further ones do, as a sample's variance is less than its source's.
    return np.asarray(np.sqrt(len(cases) / (len(cases) - 1)) * _distances(references, _drawn(rng, kinds, week)))


def _drawn(
    rng: np.random.Generator, kinds: list[tuple[NDArray[np.int64], NDArray[np.int64]]], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Counts (N, K) of as many cases as ``sizes`` has entries, each a case of ``kinds`` and so many crops of it."""
    share, drawn = np.full(len(kinds), 1 / len(kinds)), np.zeros((_DRAWS, len(kinds)), dtype=np.int64)
    for size, cases in zip(*np.unique(sizes, return_counts=True), strict=True):
        drawn += size * rng.multinomial(cases, share, size=_DRAWS)
    total = np.zeros((_DRAWS, kinds[0][0].shape[1]), dtype=np.int64)
    for case, (rows, counts) in enumerate(kinds):
        # Crops that several cases draw from one and the same case are one larger draw from it.
        total += rng.multinomial(drawn[:, case], counts / counts.sum()) @ rows
    return total


def _shares(reference: pd.DataFrame, answers: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Everything that the page shows, of the reference and of the answers."""

    def both(rows: Mapping[str, "pd.Series[bool]"]) -> tuple[float, float]:
        return float(rows["reference"].mean()), float(rows["answers"].mean())

    frames = {"reference": reference, "answers": answers}
    out = {
        label or "no type": both({name: frame["type"] == label for name, frame in frames.items()}) for label in _KINDS
    }
    out["needs review"] = both({name: frame["needs_review"] for name, frame in frames.items()})
    listed = {name: frame["reason"].str.split("; ") for name, frame in frames.items()}
    reasons = sorted({reason for column in listed.values() for reasons in column for reason in reasons if reason})
    for reason in reasons:
        found = {name: frame["reason"].str.contains(reason, regex=False) for name, frame in frames.items()}
        out[f"reason: {reason}"] = both(found)
    return out
