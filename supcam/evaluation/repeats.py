"""Figures of several trainings on the same crops, with intervals over cases, and their paired comparison."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.errors import UsageError
from supcam.evaluation.intervals import Interval, confusion_by_group, mcnemar, resampled_rates
from supcam.evaluation.metrics import Ints, confusion, rates
from supcam.evaluation.report import case_groups, case_notes, known_cases, rate_spans
from supcam.settings import EvaluateSettings

FIGURES = ("accuracy", "macro_sensitivity", "macro_specificity", "micro_specificity", "macro_precision", "macro_f1")


@dataclass(frozen=True)
class Paired:
    """A model against a reference on the same crops, over the seeds of both.

    Attributes:
        difference: Of the figure, model minus reference, mean of the seeds.
        low: Lower bound, resampling whole cases.
        high: Upper bound.
        only_model: Crops that only the model has right, mean of the seeds.
        only_reference: Crops that only the reference has right, mean of the seeds.
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


def repeated_figures(frame: pd.DataFrame, predicted: Ints, settings: EvaluateSettings) -> dict[str, Any]:
    """Figures of ``predicted`` (S, N), the types that S trainings gave to the N crops of ``frame``.

    Returns ``crops, cases, seeds``, of each figure ``value`` (of all seeds' answers together, for accuracy and
    sensitivities their mean), ``low``, ``high`` (cases resampled) and ``per_seed``, the same by type under
    ``per_type``, and ``notes``. A figure that is not defined is None.

    Raises:
        UsageError: when there is no crop, or the shapes disagree.
    """
    labels = labels_of(frame, predicted)
    seeds = len(predicted)
    found = rates(confusion(np.tile(labels, seeds), predicted.ravel()))
    single = rates(np.stack([confusion(labels, row) for row in predicted]))
    groups, notes = _groups(frame)
    spans, more = rate_spans(np.tile(labels, seeds), predicted.ravel(), groups * seeds, settings)
    figures: dict[str, Any] = {"crops": len(frame), "cases": known_cases(frame), "seeds": seeds}
    for name in FIGURES:
        figures[name] = _figure(found[name], spans.get(name), single[name])
    figures["per_type"] = {
        label: {
            "crops": int((labels == index).sum()),
            **_figure(found["sensitivity"][index], spans.get(f"sensitivity/{label}"), single["sensitivity"][:, index]),
        }
        for index, label in enumerate(TYPE_LABELS)
    }
    missing = [label for label, row in figures["per_type"].items() if not row["crops"]]
    if missing:
        notes.append(f"no crop of type {', '.join(missing)}: macro figures average the other types")
    return figures | {"notes": [*notes, *more]}


def compare_repeats(
    frame: pd.DataFrame, predicted: Ints, reference: Ints, settings: EvaluateSettings, figure: str = "macro_sensitivity"
) -> Paired:
    """Compare the answers (S, N) of two models to the same crops, seed by seed.

    Raises:
        UsageError: when the two did not judge the same crops with as many seeds.
    """
    labels = labels_of(frame, predicted)
    if predicted.shape != reference.shape:
        raise UsageError(
            f"predictions of shape {predicted.shape} and {reference.shape} cannot be paired. "
            "Predict the same crops with as many seeds of both models."
        )
    groups, _ = _groups(frame)
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    # One table per case: the answers of all seeds together, of either model.
    tiled = (np.tile(labels, len(predicted)), np.tile(member, len(predicted)))
    tables = np.stack(
        [confusion_by_group(tiled[0], answers.ravel(), tiled[1], len(names)) for answers in (predicted, reference)]
    )
    whole = rates(tables.sum(axis=1))[figure]
    low = high = None
    if settings.bootstrap:
        rng = np.random.default_rng(settings.seed)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=settings.bootstrap)
        drawn = [resampled_rates(np.tensordot(times, table, axes=1), table.sum(axis=0))[figure] for table in tables]
        differences = (drawn[0] - drawn[1])[~np.isnan(drawn[0])]
        if len(differences):
            tail = (1 - settings.confidence) / 2
            low, high = (float(bound) for bound in np.quantile(differences, [tail, 1 - tail]))
    tests = [mcnemar(labels, ours, theirs) for ours, theirs in zip(predicted, reference, strict=True)]
    p_values = sorted(test.p_value for test in tests)
    p_value = p_values[0] if len(tests) == 1 else min(1.0, 2 * float(np.median(p_values)))
    return Paired(
        difference=float(whole[0] - whole[1]),
        low=low,
        high=high,
        only_model=float(np.mean([test.only_first for test in tests])),
        only_reference=float(np.mean([test.only_second for test in tests])),
        p_value=p_value,
    )


def holm(p_values: list[float]) -> list[float]:
    """P-values of several comparisons, adjusted to hold together (Holm, Scandinavian J. of Statistics 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def subsets(frame: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Rows (N,) bool to be told apart: all crops, certain labels, each source, and each source's certain labels."""
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


def labels_of(frame: pd.DataFrame, predicted: Ints) -> Ints:
    """Actual types (N,) of a frame that ``predicted`` (S, N) has answers for.

    Raises:
        UsageError: when there is no crop, or the shapes disagree.
    """
    if not len(frame):
        raise UsageError("there is no crop to evaluate. Import more cases or change the split shares.")
    if predicted.ndim != 2 or predicted.shape[1] != len(frame):
        raise UsageError(f"predictions of shape {predicted.shape} do not fit {len(frame)} crops.")
    return np.array([int(ClusterType.parse(name)) for name in frame["type"]], dtype=np.int64)


def _groups(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What is resampled: cases, or with one case only its crops; and notes on it."""
    groups = case_groups(frame)
    if len(set(groups)) == 1:
        groups = [str(row) for row in range(len(frame))]
    return groups, case_notes(frame)


def _figure(value: Any, span: Interval | None, per_seed: NDArray[np.float64]) -> dict[str, Any]:
    bounds: dict[str, Any] = asdict(span) if span else {"low": None, "high": None}
    return {"value": _number(value), **bounds, "per_seed": [_number(one) for one in per_seed]}


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
