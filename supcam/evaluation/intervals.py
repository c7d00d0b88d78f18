"""Confidence intervals of figures, and the paired test of two models on the same crops."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.calibration import bins_of
from supcam.evaluation.metrics import TYPES, Floats, Ints, confusion, rates

_CHUNK = 10_000
_WEIGHTS_CHUNK = 100  # resamples whose weights of all crops are held at a time


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound, in the figure's own range."""

    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """Paired comparison of two models.

    Attributes:
        only_first: Crops that only the first model has right.
        only_second: Crops that only the second model has right.
        p_value: Two-sided exact binomial test that both counts have one expectation.
    """

    only_first: int
    only_second: int
    p_value: float


def wilson(hits: int, total: int, confidence: float = 0.95) -> Interval | None:
    """Wilson score interval of a share; None when there is nothing to count (Wilson, JASA 22, 1927)."""
    if total == 0:
        return None
    bounds = binomtest(hits, total).proportion_ci(confidence, method="wilson")
    return Interval(float(bounds.low), float(bounds.high))


def bootstrap(
    labels: Ints, predicted: Ints, groups: Sequence[str], *, repeats: int, confidence: float, seed: int
) -> tuple[dict[str, Interval], list[str]]:
    """Percentile intervals of the overall figures, resampling whole cases, since crops of one case resemble each other.

    Args:
        labels: (N,) actual types.
        predicted: (N,) predicted types.
        groups: (N,) the case of each crop. With one case only, crops are resampled.
        repeats: Number of resamples; 0 gives no intervals.
        confidence: For example 0.95.
        seed: Of the resampling.

    Returns:
        Intervals by figure, of each type's sensitivity as ``sensitivity/TYPE``; notes on lost resamples.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if repeats == 0:
        return {}, ["bootstrap intervals were switched off (evaluate.bootstrap = 0)"]
    rng = np.random.default_rng(seed)
    whole = confusion(labels, predicted)
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, repeats, _CHUNK):
        count = min(_CHUNK, repeats - start)
        if len(names) == 1:
            cells = rng.multinomial(whole.sum(), whole.ravel() / whole.sum(), size=count).reshape(count, *whole.shape)
        else:
            times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
            cells = np.tensordot(times, confusion_by_group(labels, predicted, member, len(names)), axes=1)
        found = resampled_rates(cells, whole)
        overall = {name: values for name, values in found.items() if values.ndim == 1}
        per_type = {f"sensitivity/{label}": found["sensitivity"][:, at] for at, label in enumerate(TYPE_LABELS)}
        for name, values in (overall | per_type).items():
            drawn.setdefault(name, []).append(values)
    notes = []
    lost = float(np.mean([np.isnan(part).mean() for part in drawn["macro_sensitivity"]]))
    if lost:
        notes.append(f"{100 * lost:.1f} % of the resamples lack a type and count for no macro interval")
    return _percentiles(drawn, confidence), notes


def probability_bootstrap(
    labels: Ints,
    probabilities: Floats,
    groups: Sequence[str],
    *,
    bins: int,
    repeats: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval]:
    """Percentile intervals of ``macro_auc`` and ``calibration_error``, resampling like :func:`bootstrap`.

    Args:
        labels: (N,) actual types.
        probabilities: (S, N, 4) of S trainings; a figure is their mean.
        groups: (N,) the case of each crop; with one case only, crops are resampled.
        bins: Of confidence, for the calibration error.
        repeats: Number of resamples; 0 gives no intervals.
        confidence: For example 0.95.
        seed: Of the resampling.

    Returns:
        Intervals by figure. A resample that lacks a type counts for no area; a figure that is not defined has none.
        Resampling adds noise to every bin, so the bounds of the calibration error lie too high where it is small.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) == 1:
        member = np.arange(len(labels))
    units = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    rankings = [_rankings(labels, one) for one in probabilities]
    gaps = [_confidence_gaps(labels, one, member, units, bins) for one in probabilities]
    sizes = np.bincount(member, minlength=units)
    drawn: dict[str, list[Floats]] = {"macro_auc": [], "calibration_error": []}
    for start in range(0, repeats, _WEIGHTS_CHUNK):
        count = min(_WEIGHTS_CHUNK, repeats - start)
        times = rng.multinomial(units, np.full(units, 1 / units), size=count)
        errors = [np.abs(times @ gap).sum(axis=1) / (times @ sizes) for gap in gaps]
        drawn["calibration_error"].append(np.mean(errors, axis=0))
        if all(rankings):
            weights = times[:, member].astype(np.float64)
            areas = [np.mean([_areas(weights, *rank) for rank in ranks], axis=0) for ranks in rankings]
            drawn["macro_auc"].append(np.mean(areas, axis=0))
    return _percentiles({name: parts for name, parts in drawn.items() if parts}, confidence)


Ranking = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]


def _rankings(labels: Ints, probabilities: Floats) -> list[Ranking]:
    """For each type that has crops on both sides: the order of its scores, where equal ones begin, who is of it."""
    found = []
    for index in range(TYPES):
        actual = labels == index
        if 0 < actual.sum() < len(labels):
            order = np.argsort(probabilities[:, index], kind="stable")
            ranked = probabilities[order, index]
            starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
            found.append((order, starts, actual[order]))
    return found


def _areas(weights: Floats, order: NDArray[np.intp], starts: NDArray[np.intp], positive: NDArray[np.bool_]) -> Floats:
    """Area under the ROC curve (R,) of crops weighted by (R, N); NaN where one side has no weight."""
    ranked = weights[:, order]
    of_type = np.add.reduceat(ranked * positive, starts, axis=1)
    others = np.add.reduceat(ranked * ~positive, starts, axis=1)
    below = np.cumsum(others, axis=1) - others
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((of_type * (below + others / 2)).sum(axis=1) / (of_type.sum(axis=1) * others.sum(axis=1)))


def _confidence_gaps(
    labels: Ints, probabilities: Floats, member: NDArray[np.intp], units: int, bins: int
) -> NDArray[np.float64]:
    """Hits less confidence, summed (units, bins): the calibration error is the sum of their sizes for each crop."""
    confidence = probabilities.max(axis=1)
    gaps = np.zeros((units, bins))
    np.add.at(gaps, (member, bins_of(confidence, bins)), (probabilities.argmax(axis=1) == labels) - confidence)
    return gaps


def resampled_rates(cells: Ints, whole: Ints) -> dict[str, NDArray[np.float64]]:
    """Rates of resampled tables (R, 4, 4) of the table ``whole`` (4, 4).

    A macro figure is NaN where a type of ``whole`` was not drawn: the mean of the other types is another figure.
    """
    lost = (cells.sum(axis=-1)[:, whole.sum(axis=-1) > 0] == 0).any(axis=-1)
    return {
        name: np.where(lost, np.nan, values) if name.startswith("macro") else values
        for name, values in rates(cells).items()
    }


def confusion_by_group(labels: Ints, predicted: Ints, member: NDArray[np.intp], groups: int) -> Ints:
    """Counts (G, 4, 4) of each group; ``member`` (N,) holds the number of each crop's group."""
    tables = np.zeros((groups, TYPES, TYPES), dtype=np.int64)
    np.add.at(tables, (member, labels, predicted), 1)
    return tables


def _percentiles(drawn: dict[str, list[NDArray[np.float64]]], confidence: float) -> dict[str, Interval]:
    tail = (1 - confidence) / 2
    found = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.quantile(values, [tail, 1 - tail])
            found[name] = Interval(float(low), float(high))
    return found


def mcnemar(labels: Ints, first: Ints, second: Ints) -> McNemar:
    """Exact McNemar test of two models' predictions for the same crops (McNemar, Psychometrika 12, 1947).

    Raises:
        UsageError: when the three do not have one length.
    """
    if not len(labels) == len(first) == len(second):
        raise UsageError(
            f"McNemar needs predictions of both models for the same crops, got {len(labels)} labels, "
            f"{len(first)} and {len(second)} predictions. Predict the same crops with both."
        )
    right_first, right_second = first == labels, second == labels
    only_first = int((right_first & ~right_second).sum())
    only_second = int((right_second & ~right_first).sum())
    differ = only_first + only_second
    p_value = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return McNemar(only_first, only_second, p_value)


_PAIRED_CHUNK = 1_000  # resamples whose counts of all cases are held at a time


def paired_bootstrap(
    labels: Ints, first: Ints, second: Ints, groups: Sequence[str], *, repeats: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Percentile intervals of the differences between two models on the same crops, resampling whole cases.

    Args:
        labels: (N,) actual types.
        first: (N,) types that the first model predicts.
        second: (N,) types that the second model predicts.
        groups: (N,) the case of each crop; with one case only, crops are resampled.
        repeats: Number of resamples; 0 gives no intervals.
        confidence: For example 0.95.
        seed: Of the resampling.

    Returns:
        Intervals of first minus second by metric, of each type's sensitivity as ``sensitivity/TYPE``. A resample in
        which a metric is not defined does not count for it; a metric that is defined in none has no interval.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) == 1:
        member = np.arange(len(labels))
    units = int(member.max()) + 1
    tables = [confusion_by_group(labels, predicted, member, units) for predicted in (first, second)]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, repeats, _PAIRED_CHUNK):
        count = min(_PAIRED_CHUNK, repeats - start)
        # The same cases for both models: what a case adds to both cancels out in the difference.
        times = rng.multinomial(units, np.full(units, 1 / units), size=count)
        ours, theirs = (resampled_rates(np.tensordot(times, table, axes=1), table.sum(axis=0)) for table in tables)
        for name, values in ours.items():
            if values.ndim == 1:
                drawn.setdefault(name, []).append(values - theirs[name])
        for index, label in enumerate(TYPE_LABELS):
            difference = ours["sensitivity"][:, index] - theirs["sensitivity"][:, index]
            drawn.setdefault(f"sensitivity/{label}", []).append(difference)
    return _percentiles(drawn, confidence)
