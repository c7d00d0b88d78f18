"""Metrics of a classification into the four types, from labels and probabilities; an undefined one is None."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, roc_auc_score

from supcam.cluster_type import TYPE_LABELS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
TYPES = len(TYPE_LABELS)


@dataclass
class Metrics:
    """Metrics by name; an undefined one is None and ``notes`` says why.

    Attributes:
        values: Overall metrics, each in 0..1 (kappa in -1..1).
        per_type: Metrics of each type by its label, and ``count``, the number of crops of that type.
        notes: One sentence for each metric that is undefined or rests on fewer than four types.
    """

    values: dict[str, float | None]
    per_type: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def confusion(labels: Ints, predicted: Ints) -> Ints:
    """Counts (4, 4): rows are actual types, columns predicted ones."""
    return np.asarray(confusion_matrix(labels, predicted, labels=range(TYPES)), dtype=np.int64)


def rates(matrix: NDArray[Any]) -> dict[str, Floats]:
    """Metrics of one or many confusion matrices (..., 4, 4); NaN where a metric is undefined.

    Returns:
        ``accuracy``, ``micro_specificity``, ``kappa``, ``macro_*`` of shape (...) and ``sensitivity``, ``specificity``,
        ``precision``, ``f1`` of shape (..., 4). Macro metrics average the types that occur among the actual ones;
        precision of a type that occurs but is never predicted counts as 0.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    total = counts.sum(axis=(-2, -1))[..., None]
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    actual, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    correct_rest = total - actual - predicted + hit
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity = hit / actual
        specificity = correct_rest / (total - actual)
        precision = np.where((predicted == 0) & (actual > 0), 0.0, hit / predicted)
        f1 = 2 * hit / (actual + predicted)
        accuracy = hit.sum(axis=-1) / total[..., 0]
        micro_specificity = correct_rest.sum(axis=-1) / (total - actual).sum(axis=-1)
        by_chance = (actual * predicted).sum(axis=-1) / total[..., 0] ** 2
        kappa = (accuracy - by_chance) / (1.0 - by_chance)  # 0/0 where all crops are of one type and predicted so
    occurs = actual > 0
    return {
        "accuracy": accuracy,
        "macro_sensitivity": _mean_where(sensitivity, occurs),
        "macro_specificity": _mean_where(specificity, occurs & (actual < total)),
        "micro_specificity": micro_specificity,
        "macro_precision": _mean_where(precision, occurs),
        "macro_f1": _mean_where(f1, occurs),
        "kappa": kappa,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision,
        "f1": f1,
    }


def classification_metrics(labels: Ints, probabilities: Floats) -> Metrics:
    """Every metric of the protocol, of labels (N,), N >= 1, and probabilities (N, 4), whose rows sum to 1.

    Micro specificity is the value published for 3CNet and equals 1 - (1 - accuracy) / 3.
    """
    predicted = probabilities.argmax(axis=1)
    found = rates(confusion(labels, predicted))
    auc = _aucs(labels, probabilities)
    values = {name: number(value) for name, value in found.items() if value.ndim == 0}
    values["macro_auc"] = number(_mean_where(auc, ~np.isnan(auc)))
    per_type = {
        label: {
            "count": int((labels == index).sum()),
            **{name: number(found[name][index]) for name in ("sensitivity", "specificity", "precision", "f1")},
            "auc": number(auc[index]),
        }
        for index, label in enumerate(TYPE_LABELS)
    }
    return Metrics(values, per_type, _notes(values, per_type, len(labels)))


def _aucs(labels: Ints, probabilities: Floats) -> Floats:
    """One-vs-rest area under the ROC curve of each type; NaN where only one side has crops."""
    found = np.full(TYPES, np.nan)
    for index in range(TYPES):
        if 0 < (labels == index).sum() < len(labels):
            found[index] = roc_auc_score(labels == index, probabilities[:, index])
    return found


def _notes(values: dict[str, float | None], per_type: dict[str, dict[str, Any]], total: int) -> list[str]:
    missing = [label for label, row in per_type.items() if row["count"] == 0]
    notes = []
    if missing:
        macro = f"macro metrics average {TYPES - len(missing)} of 4 types"
        notes.append(f"no crop of type {', '.join(missing)}: its metrics are null, {macro}")
    notes += [
        f"type {label} was never predicted: its precision counts as 0"
        for label, row in per_type.items()
        if row["count"] and row["precision"] == 0 and not row["sensitivity"]
    ]
    notes += [f"{name} is null: all {total} crops are of one type" for name, value in values.items() if value is None]
    return notes


def _mean_where(values: Floats, where: NDArray[np.bool_]) -> Floats:
    count = where.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(where, values, 0.0).sum(axis=-1) / count)


def number(value: Any) -> float | None:
    """A value for JSON, which has no NaN: None instead."""
    return None if np.isnan(value) else float(value)
