"""What goes to review by type: thresholds that keep a stated risk for each type, and the risk that was achieved."""

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
    """Probability from which a type counts as possible.

    Attributes:
        threshold: 0-1.
        crops: Validation crops of the type, which set it.
        risk: What the threshold keeps the risk of the type at or below, 0-1; None where no crop set it.
    """

    threshold: float
    crops: int
    risk: float | None


def type_thresholds(probabilities: Floats, labels: Ints, risk: float) -> dict[str, TypeThreshold]:
    """Thresholds by type, such that at most the share ``risk`` (0-0.5) of each type's crops falls below its own.

    Of probabilities (N, 4) and labels (N,) of validation crops. The threshold is the k-th smallest probability of the
    type among its n crops, k = floor(risk (n + 1)): of further crops like them k / (n + 1) or less fall below it
    (class-conditional conformal prediction, with its correction for finite samples). Where k is 0 the crops are too
    few for this risk and promise 1 / (n + 1), by their smallest probability. The type then gets that or the lowest
    threshold of the other types, whichever is stricter, that is lower.
    """
    own = [np.sort(probabilities[labels == at, at]) for at in range(len(TYPE_LABELS))]
    ranks = [int(risk * (len(scores) + 1) + 1e-9) for scores in own]
    enough = [float(scores[rank - 1]) for scores, rank in zip(own, ranks, strict=True) if rank]
    found = {}
    for label, scores, rank in zip(TYPE_LABELS, own, ranks, strict=True):
        lowest = [*enough, *scores[:1].tolist()]
        threshold = float(scores[rank - 1]) if rank else min(lowest, default=0.0)
        found[label] = TypeThreshold(threshold, len(scores), max(rank, 1) / (len(scores) + 1) if len(scores) else None)
    return found


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
