"""Metrics against torchmetrics, hand counts, and their own definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import supcam.models.torchvision_cpu  # noqa: F401  # before torchmetrics, which imports torchvision
from supcam.cluster_type import TYPE_LABELS
from supcam.evaluation.metrics import classification_metrics, confusion, rates


def drawn(seed: int, crops: int, types: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, types, crops)
    logits = rng.normal(size=(crops, 4)) + 2.0 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_torchmetrics(seed: int) -> None:
    import torch
    from torchmetrics.functional import classification as reference

    labels, probabilities = drawn(seed, 150)
    found = classification_metrics(labels, probabilities)
    scores, target = torch.from_numpy(probabilities), torch.from_numpy(labels)
    of_type = {"num_classes": 4, "average": "none"}
    expected = {
        "accuracy": reference.multiclass_accuracy(scores, target, 4, average="micro"),
        "macro_sensitivity": reference.multiclass_recall(scores, target, 4, average="macro"),
        "macro_specificity": reference.multiclass_specificity(scores, target, 4, average="macro"),
        "micro_specificity": reference.multiclass_specificity(scores, target, 4, average="micro"),
        "macro_precision": reference.multiclass_precision(scores, target, 4, average="macro"),
        "macro_f1": reference.multiclass_f1_score(scores, target, 4, average="macro"),
        "macro_auc": reference.multiclass_auroc(scores, target, 4, average="macro"),
        "kappa": reference.multiclass_cohen_kappa(scores, target, 4),
    }
    assert found.values == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-6)
    recall = reference.multiclass_recall(scores, target, **of_type)
    assert [row["sensitivity"] for row in found.per_type.values()] == pytest.approx(recall.tolist(), abs=1e-6)
    assert found.notes == []


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_micro_specificity_is_a_function_of_accuracy(seed: int, crops: int) -> None:
    values = classification_metrics(*drawn(seed, crops)).values
    assert values["accuracy"] is not None
    assert values["micro_specificity"] == pytest.approx(1 - (1 - values["accuracy"]) / 3)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_metrics_are_numbers_in_range_or_none_with_a_note(seed: int, crops: int, types: int) -> None:
    found = classification_metrics(*drawn(seed, crops, types))
    everything = [*found.values.values(), *(v for row in found.per_type.values() for v in row.values())]
    assert all(value is None or np.isfinite(value) for value in everything)
    undefined = [label for label, row in found.per_type.items() if row["count"] == 0]
    assert all(any(label in note for note in found.notes) for label in undefined)
    assert all(any(name in note for note in found.notes) for name, value in found.values.items() if value is None)


def test_a_type_without_crops_is_stated_and_left_out_of_macro_metrics() -> None:
    labels = np.array([0, 0, 1, 2])
    found = classification_metrics(labels, np.eye(4)[[0, 1, 1, 2]])
    assert found.values["macro_sensitivity"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found.per_type["touching-overlapping"]["sensitivity"] is None
    assert found.per_type["touching-overlapping"]["specificity"] == 1.0
    assert found.notes == [
        "no crop of type touching-overlapping: its metrics are null, macro metrics average 3 of 4 types"
    ]


def test_a_type_never_predicted_has_precision_zero_and_is_stated() -> None:
    found = classification_metrics(np.array([0, 1, 2, 3]), np.eye(4)[[0, 1, 2, 2]])
    assert found.per_type["touching-overlapping"]["precision"] == 0.0
    assert found.notes == ["type touching-overlapping was never predicted: its precision counts as 0"]


def test_confusion_rows_are_actual_types() -> None:
    matrix = confusion(np.array([0, 0, 3]), np.array([1, 0, 3]))
    assert matrix[0, 1] == 1 and matrix[1, 0] == 0 and matrix.shape == (len(TYPE_LABELS),) * 2


def test_rates_of_many_matrices_equal_rates_of_each() -> None:
    matrices = np.random.default_rng(1).integers(0, 5, (50, 4, 4))
    together = rates(matrices)
    for at, matrix in enumerate(matrices):
        for name, value in rates(matrix).items():
            np.testing.assert_array_equal(together[name][at], value)
