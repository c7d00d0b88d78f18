"""How far confidence can be trusted: reliability bins, calibration error, and a temperature fitted on validation."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from supcam.evaluation.metrics import Floats, Ints

_LOG_RANGE = (-3.0, 3.0)


def probabilities_of(logits: Floats, temperature: float = 1.0) -> Floats:
    """Softmax of (N, 4) logits divided by a temperature, in double precision."""
    return np.asarray(softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1))


def negative_log_likelihood(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """Mean negative log likelihood of labels (N,) under the softmax of logits (N, 4), in nats per crop, 0 or more."""
    scores = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return float(-scores[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Floats, labels: Ints) -> float | None:
    """The temperature within 0.05..20 that makes validation labels (N,) likeliest given their logits (N, 4).

    None without validation crops. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    if len(labels) == 0:
        return None
    # Over the logarithm: half and twice the right temperature are equally far from it.
    found = minimize_scalar(
        lambda log: negative_log_likelihood(logits, labels, float(np.exp(log))),
        bounds=_LOG_RANGE,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def bins_of(confidence: Floats, bins: int) -> NDArray[np.int64]:
    """Number (N,) of the bin of each confidence: bins of equal width over 0..1, open below and closed above."""
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    return np.asarray(np.searchsorted(inner, confidence, side="left"), dtype=np.int64)


def reliability(labels: Ints, probabilities: Floats, bins: int) -> pd.DataFrame:
    """Crops (labels (N,), probabilities (N, 4)) in ``bins`` bins of equal width over 0..1 by their largest probability.

    Returns:
        One row per bin: its bounds ``low, high``, the ``count`` of crops, and their mean ``confidence`` and
        ``accuracy`` in 0..1, NaN in an empty bin.
    """
    confidence = probabilities.max(axis=1)
    edges = np.linspace(0.0, 1.0, bins + 1)
    member = bins_of(confidence, bins)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": np.bincount(member, minlength=bins)})
    for name, values in (("confidence", confidence), ("accuracy", probabilities.argmax(axis=1) == labels)):
        table[name] = [values[member == at].mean() if count else np.nan for at, count in enumerate(table["count"])]
    return table


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error of reliability bins, 0..1: mean distance of accuracy and confidence by count.

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.
    """
    filled = table[table["count"] > 0]
    distance = (filled["accuracy"] - filled["confidence"]).abs()
    return float((distance * filled["count"]).sum() / filled["count"].sum())


def risk_coverage(labels: Ints, probabilities: Floats) -> pd.DataFrame:
    """Share of errors among the most confident crops, by share kept: ``coverage, risk, threshold``, each in 0..1.

    Of labels (N,) and probabilities (N, 4); row k of N keeps the k + 1 most confident crops, those whose confidence is
    at least ``threshold``.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    kept = np.arange(1, len(labels) + 1)
    return pd.DataFrame(
        {"coverage": kept / len(labels), "risk": np.cumsum(wrong) / kept, "threshold": confidence[order]}
    )
