"""Review by type: the stated risk holds for each type on fresh crops, and few crops are said to promise less."""

import numpy as np
import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.evaluation.intervals import wilson
from supcam.evaluation.review import achieved_risk, type_thresholds
from supcam.serving.gate import one_type_fits

SKILL = np.array([4.0, 2.0, 1.0, 2.0])  # how well a type is told from the others


def drawn(counts: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of a model that is good at single chromosomes and poor at rare types."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), counts)
    scores = random.normal(0, 1, (len(labels), 4)) + np.eye(4)[labels] * SKILL
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), labels


def limits_of(probabilities: np.ndarray, labels: np.ndarray, risk: float) -> np.ndarray:
    return np.array([row.threshold for row in type_thresholds(probabilities, labels, risk).values()])


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_the_stated_risk_holds_for_each_type_on_fresh_crops(risk: float) -> None:
    """Mean over many draws of validation crops: the promise is about that mean."""
    fresh, labels = drawn([4000] * 4, 0)
    found = []
    for seed in range(1, 60):
        limits = limits_of(*drawn([400, 60, 30, 20], seed), risk)
        achieved = achieved_risk(labels, fresh.argmax(axis=1), one_type_fits(fresh, limits))
        found.append([achieved[label]["risk"] for label in TYPE_LABELS])
    assert (np.mean(found, axis=0) <= risk + 0.01).all()


def test_threshold_is_the_conformal_rank() -> None:
    probabilities, labels = drawn([19, 20, 40, 9], 3)
    found = type_thresholds(probabilities, labels, 0.1)
    for at, (label, rank) in enumerate(zip(TYPE_LABELS, (2, 2, 4, 1), strict=True)):
        assert found[label].threshold == np.sort(probabilities[labels == at, at])[rank - 1]
        assert found[label].risk == pytest.approx(rank / (found[label].crops + 1))
        assert found[label].risk <= 0.1


def test_too_few_crops_promise_less_and_get_the_strictest_threshold() -> None:
    probabilities, labels = drawn([100, 50, 30, 7], 4)
    found = type_thresholds(probabilities, labels, 0.1)
    own = probabilities[labels == 3, 3].min()
    others = [found[label].threshold for label in TYPE_LABELS[:3]]
    assert found["touching-overlapping"].threshold == min([own, *others])
    assert found["touching-overlapping"].risk == pytest.approx(1 / 8)
    none = type_thresholds(probabilities[labels != 3], labels[labels != 3], 0.1)["touching-overlapping"]
    assert (none.threshold, none.crops, none.risk) == (min(others), 0, None)


def test_no_validation_crop_at_all_sends_everything_to_review() -> None:
    limits = limits_of(np.empty((0, 4)), np.empty(0, dtype=np.int64), 0.1)
    assert not one_type_fits(drawn([5] * 4, 1)[0], limits).any()


def test_one_type_fits_only_where_the_most_probable_one_is_alone() -> None:
    limits = np.array([0.5, 0.3, 0.3, 0.3])
    rows = np.array([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.45, 0.2, 0.2, 0.15], [0.45, 0.35, 0.1, 0.1]])
    assert one_type_fits(rows, limits).tolist() == [True, False, False, False]
    assert not one_type_fits(np.full((1, 4), np.nan), limits).any()


def test_achieved_risk_counts_what_is_answered_as_another_type() -> None:
    labels = np.array([0, 0, 0, 1, 1, 3])
    found = achieved_risk(labels, np.array([0, 1, 1, 1, 0, 3]), np.array([True, True, False, True, True, False]))
    assert (found["instance"]["risk"], found["instance"]["answered"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found["touching"]["risk"] == 0.5 and found["touching-overlapping"]["risk"] == 0.0
    interval = wilson(1, 2)
    assert interval is not None and found["touching"]["high"] == interval.high
    assert found["overlapping"] == {"crops": 0, "answered": None, "risk": None, "low": None, "high": None}
