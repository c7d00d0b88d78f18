"""Calibration error, reliability bins, the fitted temperature, and risk against coverage."""

import warnings

import numpy as np
import pytest

import supcam.models.torchvision_cpu  # noqa: F401  # before torchmetrics, which imports torchvision
from supcam.evaluation.calibration import (
    bins_of,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    probabilities_of,
    reliability,
    risk_coverage,
)


def drawn(seed: int, crops: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(logits); the logits returned are ``scale`` times too large."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(crops, 4))
    labels = np.array([rng.choice(4, p=row) for row in probabilities_of(logits)])
    return logits * scale, labels


@pytest.mark.parametrize("seed", range(10))
def test_calibration_error_equals_torchmetrics(seed: int) -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = drawn(seed, 300, 2.0)
    probabilities = probabilities_of(logits)
    expected = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels), 4, n_bins=12)
    assert calibration_error(reliability(labels, probabilities, 12)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_temperature_undoes_the_scale(scale: float) -> None:
    logits, labels = drawn(3, 4000, scale)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(scale, rel=0.08)
    before = negative_log_likelihood(logits, labels)
    assert negative_log_likelihood(logits, labels, temperature) <= before + 1e-9
    assert fit_temperature(logits[:0], labels[:0]) is None


def test_temperature_of_perfect_and_of_useless_predictions_is_a_bound() -> None:
    labels = np.arange(40) % 4
    assert fit_temperature(np.eye(4)[labels], labels) == pytest.approx(np.exp(-3), rel=1e-4)
    assert fit_temperature(-np.eye(4)[labels], labels) == pytest.approx(np.exp(3), rel=1e-4)


def test_no_temperature_beside_the_fitted_one_is_better() -> None:
    logits, labels = drawn(4, 500, 2.0)
    temperature = fit_temperature(logits, labels)
    assert temperature is not None
    best = negative_log_likelihood(logits, labels, temperature)
    assert all(negative_log_likelihood(logits, labels, temperature * factor) > best for factor in (0.9999, 1.0001))


def test_the_likelihood_is_that_of_the_labels_in_double_precision() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32))
    expected = -(np.log(0.5) + np.log(0.2)) / 2
    assert negative_log_likelihood(logits, np.array([0, 1])) == pytest.approx(expected, rel=1e-7)
    assert probabilities_of(logits).dtype == np.float64
    np.testing.assert_allclose(probabilities_of(logits), [[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], rtol=1e-7)
    flat = probabilities_of(np.array([[2.0, 0.0, 0.0, 0.0]]), 2.0)
    assert flat[0, 0] / flat[0, 1] == pytest.approx(np.e)


def test_bins_hold_every_crop_and_empty_bins_stay_empty() -> None:
    labels = np.array([0, 1, 2, 3])
    probabilities = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.25] * 4, [0.25] * 4])
    table = reliability(labels, probabilities, 4)
    assert table["count"].tolist() == [2, 0, 0, 2]
    assert table["accuracy"].isna().tolist() == [False, True, True, False]
    assert table.loc[0, "accuracy"] == 0.0 and table.loc[3, "confidence"] == 1.0
    assert table[["low", "high"]].to_numpy().tolist() == [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]]
    assert list(table) == ["low", "high", "count", "confidence", "accuracy"]


def test_a_bin_is_open_below_and_closed_above() -> None:
    assert bins_of(np.array([0.0, 0.25, 0.2500001, 0.5, 0.75, 0.99, 1.0]), 4).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_the_calibration_error_weighs_bins_by_their_crops() -> None:
    """Three crops answered with 0.5, two of them correctly, and one correct answer with 0.9."""
    probabilities = np.array([[0.5, 0.5, 0, 0]] * 3 + [[0.1, 0, 0, 0.9]])
    table = reliability(np.array([0, 0, 1, 3]), probabilities, 4)
    assert calibration_error(table) == pytest.approx((3 * (2 / 3 - 0.5) + 0.1) / 4)


def test_risk_and_coverage_of_each_threshold() -> None:
    """Crops of the same confidence keep their order."""
    probabilities = np.array([[0.6, 0.4, 0, 0], [0, 0.9, 0.1, 0], [0.6, 0, 0.4, 0], [0, 0, 0.3, 0.7]])
    table = risk_coverage(np.array([1, 1, 0, 2]), probabilities)
    assert list(table) == ["coverage", "risk", "threshold"]
    np.testing.assert_allclose(
        table, [[0.25, 0, 0.9], [0.5, 1 / 2, 0.7], [0.75, 2 / 3, 0.6], [1, 1 / 2, 0.6]], rtol=1e-12
    )


def test_risk_at_full_coverage_is_the_error_rate() -> None:
    logits, labels = drawn(5, 500)
    probabilities = probabilities_of(logits)
    table = risk_coverage(labels, probabilities)
    assert table["risk"].iloc[-1] == pytest.approx((probabilities.argmax(1) != labels).mean())
    assert table["coverage"].is_monotonic_increasing and table["threshold"].is_monotonic_decreasing
    assert table["risk"].iloc[99] < table["risk"].iloc[-1]


def test_the_likelihood_of_a_sure_answer_is_not_rounded_to_one() -> None:
    """In the single precision of the logits 1 + 3 exp(-20) is 1."""
    sure = np.array([[20.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    assert negative_log_likelihood(sure, np.array([0])) == pytest.approx(3 * np.exp(-20.0), rel=1e-6)


def test_no_crop_in_the_highest_bin() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of the mean of nothing
        table = reliability(np.zeros(3, dtype=np.int64), np.full((3, 4), 0.25), 4)
    assert table["count"].tolist() == [3, 0, 0, 0]


def test_many_crops_of_the_same_confidence_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    confidence, labels = rng.choice([0.5, 0.7, 0.9], 300), rng.integers(0, 2, 300)
    table = risk_coverage(labels, np.column_stack([confidence, 1 - confidence, np.zeros((300, 2))]))
    ordered = sorted(range(300), key=lambda row: -confidence[row])
    np.testing.assert_allclose(table["risk"] * np.arange(1, 301), np.cumsum(labels[ordered]))


@pytest.mark.parametrize(("level", "correct"), [(5.0, 6), (3.0, 9), (2.0, 9)])
def test_temperature_is_exact_to_six_digits(level: float, correct: int) -> None:
    """Of ten crops with the same logits the likeliest temperature makes confidence the share of correct ones."""
    logits, labels = np.tile([level, 0, 0, 0], (10, 1)), (np.arange(10) >= correct).astype(np.int64)
    expected = level / np.log(3 * correct / (10 - correct))
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=3e-7)
