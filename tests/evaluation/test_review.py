"""Review by type: the stated risk holds for each type on fresh crops, and too few crops promise nothing."""

import numpy as np
import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.evaluation.intervals import wilson
from supcam.evaluation.review import TypeThreshold, achieved_risk, type_thresholds
from supcam.serving.gate import sure_enough

SKILL = np.array([4.0, 2.0, 1.0, 2.0])  # how well a type is told from the others


def drawn(counts: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of a model that is good at single chromosomes and poor at rare types."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), counts)
    scores = random.normal(0, 1, (len(labels), 4)) + np.eye(4)[labels] * SKILL
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), labels


def largest(found: dict[str, TypeThreshold]) -> float:
    return max(row.threshold for row in found.values())


def risks(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    achieved = achieved_risk(labels, probabilities.argmax(axis=1), sure_enough(probabilities, threshold))
    return np.array([achieved[label]["risk"] for label in TYPE_LABELS])


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_the_stated_risk_holds_for_each_type_on_fresh_crops(risk: float) -> None:
    """Mean over many draws of validation crops: the promise is about that mean, for each type by its own threshold."""
    fresh, labels = drawn([4000] * 4, 0)
    own, all_types = [], []
    for seed in range(1, 80):
        found = type_thresholds(*drawn([400, 60, 30, 20], seed), risk)
        own.append([risks(fresh, labels, found[label].threshold)[at] for at, label in enumerate(TYPE_LABELS)])
        all_types.append(risks(fresh, labels, largest(found)))
    mean = np.mean(own, axis=0)
    assert (mean <= risk + 0.01).all()
    assert mean[2] > 0.4 * risk  # not by answering nothing: the third type is often wrong
    assert (np.mean(all_types, axis=0) <= risk + 0.01).all()


def test_as_many_crops_as_allowed_are_answered_wrongly_from_the_threshold_on() -> None:
    probabilities, labels = drawn([190, 90, 80, 70], 3)
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    for at, row in enumerate(type_thresholds(probabilities, labels, 0.1).values()):
        own = wrong & (labels == at)
        allowed = int(0.1 * (row.crops + 1) + 1e-9) - 1
        assert (confidence[own] >= row.threshold).sum() == min(allowed, own.sum())
        assert row.risk == pytest.approx((allowed + 1) / (row.crops + 1)) and row.risk <= 0.1
        assert row.threshold == 0.0 or (confidence < row.threshold).any()


def test_the_threshold_is_not_a_confidence_itself() -> None:
    """Between two crops, so that the rounding of another processor lets neither change sides."""
    probabilities, labels = drawn([190, 90, 80, 70], 3)
    for row in type_thresholds(probabilities, labels, 0.1).values():
        assert row.threshold not in probabilities.max(axis=1)


def test_types_with_too_few_crops_share_a_threshold_and_set_none_where_these_are_too_few() -> None:
    probabilities, labels = drawn([100, 50, 8, 7], 4)
    found = type_thresholds(probabilities, labels, 0.1)
    assert found["overlapping"] == found["touching-overlapping"]
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    assert found["overlapping"].crops == 15 and found["overlapping"].risk == pytest.approx(1 / 16)
    assert not (wrong & (labels >= 2) & (confidence >= found["overlapping"].threshold)).any()
    few = type_thresholds(*drawn([100, 50, 5, 3], 4), 0.1)
    assert few["overlapping"] == few["touching-overlapping"] == TypeThreshold(0.0, 8, None)
    none = type_thresholds(*drawn([100, 50, 30, 0], 4), 0.1)["touching-overlapping"]
    assert none == TypeThreshold(0.0, 0, None)


def test_a_model_that_is_surely_wrong_answers_nothing() -> None:
    probabilities, labels = np.tile([1.0, 0, 0, 0], (80, 1)), np.repeat(np.arange(4), 20)
    assert largest(type_thresholds(probabilities, labels, 0.1)) == 1.0
    assert not sure_enough(probabilities, 1.0).any()


def test_sure_enough_from_the_threshold_on() -> None:
    rows = np.array([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.45, 0.2, 0.2, 0.15], [np.nan] * 4])
    assert sure_enough(rows, 0.6).tolist() == [True, True, False, False]
    assert sure_enough(rows, 0.0).tolist() == [True, True, True, False]
    assert not sure_enough(rows, np.nan).any()


def test_achieved_risk_counts_what_is_answered_as_another_type() -> None:
    labels = np.array([0, 0, 0, 1, 1, 3])
    found = achieved_risk(labels, np.array([0, 1, 1, 1, 0, 3]), np.array([True, True, False, True, True, False]))
    assert (found["instance"]["risk"], found["instance"]["answered"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found["touching"]["risk"] == 0.5 and found["touching-overlapping"]["risk"] == 0.0
    interval = wilson(1, 2)
    assert interval is not None and found["touching"]["high"] == interval.high
    assert found["overlapping"] == {"crops": 0, "answered": None, "risk": None, "low": None, "high": None}
