"""Metrics of several trainings on the same crops, with intervals over cases, and their paired comparison."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.cases import actual_types, case_groups, case_notes, known_cases
from supcam.evaluation.intervals import Interval, bootstrap, mcnemar, paired_bootstrap
from supcam.evaluation.metrics import Floats, Ints, confusion, number, rates
from supcam.settings import EvaluateSettings

METRICS = ("accuracy", "macro_sensitivity", "macro_specificity", "micro_specificity", "macro_precision", "macro_f1")


@dataclass(frozen=True)
class Paired:
    """A model against a reference on the same crops, over the seeds of both.

    Attributes:
        difference: Of the metric, model minus reference, mean of the seeds.
        low: Lower bound, resampling whole cases.
        high: Upper bound.
        only_model: Crops that only the model types correctly, mean of the seeds.
        only_reference: Crops that only the reference types correctly, mean of the seeds.
        p_value: McNemar. Of several seeds twice the median of their p-values, which is valid however they depend on
            each other (Rueger, Metrika 25, 1978). Crops count as independent of each other, which crops of one case
            are not: the interval over cases is the stricter statement.
    """

    difference: float
    low: float | None
    high: float | None
    only_model: float
    only_reference: float
    p_value: float


def repeated_metrics(frame: pd.DataFrame, predicted: Ints, settings: EvaluateSettings) -> dict[str, Any]:
    """Metrics of several trainings on the same crops.

    Args:
        frame: N rows of a manifest.
        predicted: (S, N), the types that S trainings gave to them.
        settings: Confidence, resamples and seed of the intervals.

    Returns:
        ``crops, cases, seeds``, of each metric ``value`` (of all seeds' answers together, for accuracy and
        sensitivities their mean), ``low``, ``high`` (cases resampled) and ``per_seed``, the same by type under
        ``per_type``, and ``notes``. An undefined metric is None.

    Raises:
        UsageError: when there is no crop, or the shapes disagree.
    """
    labels = checked_labels(frame, predicted)
    seeds = len(predicted)
    found = rates(confusion(np.tile(labels, seeds), predicted.ravel()))
    single = rates(np.stack([confusion(labels, row) for row in predicted]))
    # All seeds' answers to a case are drawn together: they are repeated measurements of it, not further cases.
    groups = _resampled_groups(frame) * seeds
    intervals, lost_notes = bootstrap(np.tile(labels, seeds), predicted.ravel(), groups, settings)
    metrics: dict[str, Any] = {"crops": len(frame), "cases": known_cases(frame), "seeds": seeds}
    for name in METRICS:
        metrics[name] = _metric(found[name], intervals.get(name), single[name])
    metrics["per_type"] = {
        label: {
            "crops": int((labels == at).sum()),
            **_metric(found["sensitivity"][at], intervals.get(f"sensitivity/{label}"), single["sensitivity"][:, at]),
        }
        for at, label in enumerate(TYPE_LABELS)
    }
    notes = case_notes(frame)
    missing = [label for label, row in metrics["per_type"].items() if not row["crops"]]
    if missing:
        notes.append(f"no crop of type {', '.join(missing)}: macro metrics average the other types")
    return metrics | {"notes": [*notes, *lost_notes]}


def compare_repeats(
    frame: pd.DataFrame, predicted: Ints, reference: Ints, settings: EvaluateSettings, metric: str = "macro_sensitivity"
) -> Paired:
    """Compare the answers of two models to the same crops, seed by seed.

    Args:
        frame: N rows of a manifest.
        predicted: (S, N) types predicted by the model.
        reference: (S, N) types predicted by the reference, of the same crops by as many seeds.
        settings: Confidence, resamples and seed of the interval.
        metric: What is compared, one of :data:`METRICS`.

    Raises:
        UsageError: when the two did not judge the same crops with as many seeds.
    """
    labels = checked_labels(frame, predicted)
    if predicted.shape != reference.shape:
        raise UsageError(
            f"predictions of shape {predicted.shape} and {reference.shape} cannot be paired. "
            "Predict the same crops with as many seeds of both models."
        )
    tiled = np.tile(labels, len(predicted))
    whole = [rates(confusion(tiled, answers.ravel()))[metric] for answers in (predicted, reference)]
    # All seeds' answers to a case, of either model, are drawn together: what makes a case hard for both cancels out.
    interval = paired_bootstrap(
        tiled,
        predicted.ravel(),
        reference.ravel(),
        _resampled_groups(frame) * len(predicted),
        repeats=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
    ).get(metric)
    tests = [mcnemar(labels, ours, theirs) for ours, theirs in zip(predicted, reference, strict=True)]
    p_values = [test.p_value for test in tests]
    return Paired(
        difference=float(whole[0] - whole[1]),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        only_model=float(np.mean([test.only_first for test in tests])),
        only_reference=float(np.mean([test.only_second for test in tests])),
        # However the seeds depend on each other (they judge the same crops), their median is at most twice too small.
        p_value=p_values[0] if len(tests) == 1 else min(1.0, 2 * float(np.median(p_values))),
    )


def holm(p_values: list[float]) -> list[float]:
    """P-values of several comparisons, adjusted to hold together (Holm, Scandinavian J. of Statistics 6, 1979).

    With adjusted p-values below 0.05 the chance of even one wrong finding among all comparisons is below 5 %.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        # Never below that of a smaller p-value: the steps stop at the first comparison that is not significant.
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def subsets(frame: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Rows (N,) bool to be reported apart: all crops, certain labels, each source, and its certain labels."""
    every = np.ones(len(frame), dtype=bool)
    certain = frame["label_certain"].astype(bool).to_numpy() if "label_certain" in frame else every
    found = {"all crops": every}
    sources = frame["source"].astype(str).to_numpy()
    names = sorted(set(sources))
    if len(names) > 1:
        found |= {name: sources == name for name in names}
    for name, rows in list(found.items()):
        if (certain[rows]).any() and not certain[rows].all():
            found[f"{name}, label_certain not no"] = rows & certain
    return found


def checked_labels(frame: pd.DataFrame, predicted: Ints) -> Ints:
    """Actual types (N,) of a frame that ``predicted`` (S, N) has answers for.

    Raises:
        UsageError: when there is no crop, or the shapes disagree.
    """
    if not len(frame):
        raise UsageError("there is no crop to evaluate. Import more cases or change the split shares.")
    if predicted.ndim != 2 or predicted.shape[1] != len(frame):
        raise UsageError(f"predictions of shape {predicted.shape} do not fit {len(frame)} crops.")
    return actual_types(frame)


def _resampled_groups(frame: pd.DataFrame) -> list[str]:
    """Cases, or with one case only its crops."""
    groups = case_groups(frame)
    return groups if len(set(groups)) > 1 else [str(row) for row in range(len(frame))]


def _metric(value: Any, interval: Interval | None, per_seed: Floats) -> dict[str, Any]:
    bounds: dict[str, Any] = asdict(interval) if interval else {"low": None, "high": None}
    return {"value": number(value), **bounds, "per_seed": [number(one) for one in per_seed]}
