"""Calibration error, reliability bins, the fitted temperature, and risk against coverage."""

import numpy as np
import pytest

import supcam.models.torchvision_cpu  # noqa: F401  # before torchmetrics, which imports torchvision
from supcam.evaluation.calibration import (
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


def test_temperature_of_perfect_predictions_stays_finite() -> None:
    labels = np.arange(40) % 4
    temperature = fit_temperature(10 * np.eye(4)[labels], labels)
    assert temperature is not None and np.exp(-3) <= temperature < 1


def test_bins_hold_every_crop_and_empty_bins_stay_empty() -> None:
    labels = np.array([0, 1, 2, 3])
    probabilities = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.25] * 4, [0.25] * 4])
    table = reliability(labels, probabilities, 4)
    assert table["count"].tolist() == [2, 0, 0, 2]
    assert table["accuracy"].isna().tolist() == [False, True, True, False]
    assert table.loc[0, "accuracy"] == 0.0 and table.loc[3, "confidence"] == 1.0


def test_risk_at_full_coverage_is_the_error_rate() -> None:
    logits, labels = drawn(5, 500)
    probabilities = probabilities_of(logits)
    table = risk_coverage(labels, probabilities)
    assert table["risk"].iloc[-1] == pytest.approx((probabilities.argmax(1) != labels).mean())
    assert table["coverage"].is_monotonic_increasing and table["threshold"].is_monotonic_decreasing
    assert table["risk"].iloc[99] < table["risk"].iloc[-1]
