"""Confidence intervals of metrics, and the paired test of two models on the same crops."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.calibration import bins_of
from supcam.evaluation.metrics import TYPES, Floats, Ints, confusion, rates
from supcam.settings import EvaluateSettings

_CHUNK = 1_000  # resamples whose counts of all cases and confusion tables are held at a time
_WEIGHTS_CHUNK = 100  # resamples whose weights of all crops are held at a time


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound, in the metric's own range."""

    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """Paired comparison of two models.

    Attributes:
        only_first, only_second: Crops that only one of them types correctly.
        p_value: Two-sided exact binomial test that both counts have the same expectation.
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
    labels: Ints, predicted: Ints, groups: Sequence[str], settings: EvaluateSettings
) -> tuple[dict[str, Interval], list[str]]:
    """Percentile intervals by metric, of each type's sensitivity as ``sensitivity/TYPE``, and notes on lost resamples.

    Of labels (N,) and predicted types (N,), resampling whole cases, since crops of one case resemble each other:
    ``groups`` (N,) are the cases. With one case only, crops are resampled. Without resamples there are no intervals.
    """
    if settings.bootstrap == 0:
        return {}, ["bootstrap intervals were switched off (evaluate.bootstrap = 0)"]
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    whole = confusion(labels, predicted)
    # Every rate depends on the confusion table alone: tables are drawn, never the crops themselves.
    tables = confusion_by_group(labels, predicted, member, len(names))
    shares, drawn_at_once = np.full(len(names), 1 / len(names)), len(names)
    if len(names) == 1:  # crops, of which all in one entry of the table are the same
        tables = np.eye(whole.size, dtype=np.int64).reshape(-1, *whole.shape)
        shares, drawn_at_once = whole.ravel() / whole.sum(), whole.sum()
    drawn: dict[str, list[Floats]] = defaultdict(list)
    for times in _times_drawn(drawn_at_once, shares, settings.bootstrap, settings.seed):
        for name, values in _named_rates(times, tables, whole).items():
            drawn[name].append(values)
    lost = float(np.isnan(np.concatenate(drawn["macro_sensitivity"])).mean())
    notes = [f"{100 * lost:.1f} % of the resamples lack a type and count for no macro interval"] if lost else []
    return _percentiles(drawn, settings.confidence), notes


def probability_bootstrap(
    labels: Ints, probabilities: Floats, groups: Sequence[str], settings: EvaluateSettings
) -> dict[str, Interval]:
    """Percentile intervals of ``macro_auc`` and ``calibration_error``, resampling cases or the crops of a single one.

    Of labels (N,) and probabilities (S, N, 4) of S trainings, over which a metric is the mean; ``groups`` (N,) are the
    cases. A resample that lacks a type counts for no AUC; an undefined metric has no interval. Resampling adds noise to
    every bin, so the bounds of the calibration error lie too high where it is small.
    """
    member, units = _resampled_units(groups)
    rankings = [_rankings(labels, one) for one in probabilities]
    gaps = [_confidence_gaps(labels, one, member, units, settings.reliability_bins) for one in probabilities]
    sizes = np.bincount(member, minlength=units)
    drawn: dict[str, list[Floats]] = defaultdict(list)
    for times in _times_drawn(units, np.full(units, 1 / units), settings.bootstrap, settings.seed, _WEIGHTS_CHUNK):
        errors = [np.abs(times @ gap).sum(axis=1) / (times @ sizes) for gap in gaps]
        drawn["calibration_error"].append(np.mean(errors, axis=0))
        if all(rankings):
            weights = times[:, member].astype(np.float64)
            aucs = [np.mean([_weighted_auc(weights, *rank) for rank in ranks], axis=0) for ranks in rankings]
            drawn["macro_auc"].append(np.mean(aucs, axis=0))
    return _percentiles(drawn, settings.confidence)


def _resampled_units(groups: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Number (N,) of what each crop is resampled with (its case, or with one case only itself), and their count."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return (member, len(names)) if len(names) > 1 else (np.arange(len(member)), len(member))


def _times_drawn(total: int, shares: Floats, resamples: int, seed: int, chunk: int = _CHUNK) -> Iterator[Ints]:
    """How often each unit (its share of (units,)) is in each resample of ``total``: (R, units), a chunk at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        yield rng.multinomial(total, shares, size=min(chunk, resamples - start))


def _named_rates(times: Ints, tables: Ints, whole: Ints) -> dict[str, Floats]:
    """Rates (R,) by name of resamples that hold each table of (units, 4, 4) so many ``times`` (R, units)."""
    found = resampled_rates(np.tensordot(times, tables, axes=1), whole)
    overall = {name: values for name, values in found.items() if values.ndim == 1}
    return overall | {f"sensitivity/{label}": found["sensitivity"][:, at] for at, label in enumerate(TYPE_LABELS)}


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


def _weighted_auc(
    weights: Floats, order: NDArray[np.intp], starts: NDArray[np.intp], positive: NDArray[np.bool_]
) -> Floats:
    """Area under the ROC curve (R,) of crops weighted by (R, N); NaN where one side has no weight.

    As the share of pairs that are ranked correctly (Mann-Whitney), ties counting half. Scores are sorted once for all
    resamples, which scikit-learn would do for each of them.
    """
    ranked = weights[:, order]
    of_type = np.add.reduceat(ranked * positive, starts, axis=1)
    others = np.add.reduceat(ranked * ~positive, starts, axis=1)
    below = np.cumsum(others, axis=1) - others
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((of_type * (below + others / 2)).sum(axis=1) / (of_type.sum(axis=1) * others.sum(axis=1)))


def _confidence_gaps(labels: Ints, probabilities: Floats, member: NDArray[np.intp], units: int, bins: int) -> Floats:
    """Hits less confidence, summed (units, bins): the calibration error is the sum of their sizes for each crop."""
    confidence = probabilities.max(axis=1)
    gaps = np.zeros((units, bins))
    np.add.at(gaps, (member, bins_of(confidence, bins)), (probabilities.argmax(axis=1) == labels) - confidence)
    return gaps


def resampled_rates(tables: Ints, whole: Ints) -> dict[str, Floats]:
    """Rates of resampled confusion tables (R, 4, 4) of the table ``whole`` (4, 4).

    A macro metric is NaN where a type of ``whole`` was not drawn: the mean of the other types is another metric, and
    mixing the two would move the interval towards the types that are easy.
    """
    lost = (tables.sum(axis=-1)[:, whole.sum(axis=-1) > 0] == 0).any(axis=-1)
    return {
        name: np.where(lost, np.nan, values) if name.startswith("macro") else values
        for name, values in rates(tables).items()
    }


def confusion_by_group(labels: Ints, predicted: Ints, member: NDArray[np.intp], groups: int) -> Ints:
    """Counts (G, 4, 4) of each group; ``member`` (N,) holds the number of each crop's group."""
    tables = np.zeros((groups, TYPES, TYPES), dtype=np.int64)
    np.add.at(tables, (member, labels, predicted), 1)
    return tables


def _percentiles(drawn: Mapping[str, list[Floats]], confidence: float) -> dict[str, Interval]:
    found = {name: percentile_interval(np.concatenate(parts), confidence) for name, parts in drawn.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def percentile_interval(values: Floats, confidence: float) -> Interval | None:
    """Percentile interval of resampled values (R,), those that are NaN left out; None when none is left."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar(labels: Ints, first: Ints, second: Ints) -> McNemar:
    """Exact McNemar test of two models' predictions (N,) for the same crops (McNemar, Psychometrika 12, 1947).

    Crops that both models type correctly, or both wrongly, say nothing about which is better and are left out.
    """
    if not len(labels) == len(first) == len(second):
        raise UsageError(
            f"McNemar needs predictions of both models for the same crops, got {len(labels)} labels, "
            f"{len(first)} and {len(second)} predictions. Predict the same crops with both."
        )
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((second == labels) & (first != labels)).sum())
    differ = only_first + only_second
    p_value = float(binomtest(only_first, differ).pvalue) if differ else 1.0
    return McNemar(only_first, only_second, p_value)


def paired_bootstrap(
    labels: Ints, first: Ints, second: Ints, groups: Sequence[str], *, repeats: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Percentile intervals of the differences between two models on the same crops, resampling whole cases.

    Args:
        labels, first, second: (N,) actual types, and those that the two models predict.
        groups: (N,) the case of each crop; with one case only, crops are resampled.
        repeats: Number of resamples; 0 gives no intervals.
        confidence, seed: Of the intervals, such as 0.95, and of the resampling.

    Returns:
        Intervals of first minus second by metric, of each type's sensitivity as ``sensitivity/TYPE``. A resample in
        which a metric is not defined does not count for it; a metric that is defined in none has no interval.
    """
    member, units = _resampled_units(groups)
    tables = [confusion_by_group(labels, predicted, member, units) for predicted in (first, second)]
    drawn: dict[str, list[Floats]] = defaultdict(list)
    for times in _times_drawn(units, np.full(units, 1 / units), repeats, seed):
        # The same cases for both models: what a case adds to both cancels out in the difference.
        ours, theirs = (_named_rates(times, table, table.sum(axis=0)) for table in tables)
        for name, values in ours.items():
            drawn[name].append(values - theirs[name])
    return _percentiles(drawn, confidence)
