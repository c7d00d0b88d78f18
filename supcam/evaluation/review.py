"""What goes to review: the confidence that keeps a stated risk for each type, and the risk that was achieved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.evaluation.intervals import wilson
from supcam.evaluation.metrics import Floats, Ints, number


@dataclass(frozen=True)
class TypeThreshold:
    """The confidence from which crops of a type may be answered.

    Attributes:
        threshold: 0-1; 1 answers none.
        crops: Validation crops that set it: those of the type, or of all types with too few.
        risk: What the threshold keeps the risk at or below, 0-1; None where these crops are too few to set one.
    """

    threshold: float
    crops: int
    risk: float | None


def type_thresholds(probabilities: Floats, labels: Ints, risk: float) -> dict[str, TypeThreshold]:
    """The lowest confidence for each type that keeps the share of its crops answered wrongly at ``risk`` (0-0.5).

    Of probabilities (N, 4) and labels (N,) of validation crops. Of n crops of a type at most floor(risk (n + 1)) - 1
    may have a wrong answer from the threshold on; the expected risk of further crops like them is then at most ``risk``
    (conformal risk control for each type by itself, with its correction for finite samples: Angelopoulos et al., ICLR
    2024). A higher threshold keeps it too, so the largest of the four keeps the risk of every type.

    Types with fewer than 1 / risk - 1 crops, which can keep no such promise, share one threshold as if they were one
    type; where they are too few together, they set none.
    """
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    few = np.array([_allowed(int((labels == at).sum()), risk) < 0 for at in range(len(TYPE_LABELS))])
    found = {}
    for at, label in enumerate(TYPE_LABELS):
        rows = few[labels] if few[at] else labels == at
        count, allowed = int(rows.sum()), _allowed(int(rows.sum()), risk)
        if allowed < 0:
            found[label] = TypeThreshold(0.0, count, None)
        else:
            threshold = _above(np.sort(confidence[rows & wrong])[::-1][allowed:], confidence)
            found[label] = TypeThreshold(threshold, count, (allowed + 1) / (count + 1))
    return found


def _allowed(count: int, risk: float) -> int:
    """How many of so many validation crops may be answered wrongly; -1 where the crops are too few."""
    return int(risk * (count + 1) + 1e-9) - 1


def _above(refused: Floats, confidence: Floats) -> float:
    """A threshold between the first (largest) of the refused confidences and the next larger of all."""
    if not refused.size:
        return 0.0
    larger = confidence[confidence > refused[0]]
    return float((refused[0] + larger.min()) / 2) if larger.size else 1.0


def achieved_risk(
    labels: Ints, predicted: Ints, answered: NDArray[np.bool_], confidence: float = 0.95
) -> Mapping[str, dict[str, Any]]:
    """Of the crops of each type: the share ``answered`` without review, and ``risk``, that answered as another type.

    Of N crops: labels, predicted types, and whether each was answered without review. ``low`` and ``high`` bound the
    risk (Wilson); None without a crop of the type.
    """
    found = {}
    for at, label in enumerate(TYPE_LABELS):
        rows = labels == at
        wrong, total = int((answered & (predicted != at))[rows].sum()), int(rows.sum())
        interval = wilson(wrong, total, confidence)
        found[label] = {
            "crops": total,
            "answered": number(answered[rows].mean()) if total else None,
            "risk": wrong / total if total else None,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
        }
    return found
