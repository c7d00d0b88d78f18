"""What a package carries to recognise crops unlike its training crops, and whether too many of a folder's are."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from supcam.serving.novelty import NEIGHBOURS, STATISTICS, Novelty, squared_distances, statistics_of

MAX_BANK = 2_000
_LEAST_VARIANCE = 1e-4  # of standardised statistics: directions that hardly vary must not decide alone


def fit_novelty(
    training: Sequence[NDArray[np.uint8]],
    validation: Sequence[NDArray[np.uint8]],
    share: float,
    groups: Sequence[str] | None = None,
) -> Novelty | None:
    """Summarise training crops, with the threshold that at most the share ``share`` (0-1) of validation crops exceeds.

    Crops are read ones, (H, W). Training crops are their own neighbours, so the threshold is set on validation crops,
    as the conformal one: the largest distance where there are fewer than 1 / share crops. Validation crops are often of
    few cases, and a new case differs more from those of training than crops of one case do: with ``groups``, the case
    of each training crop, it is not below the threshold for validation crops and training crops together, of which
    each is compared with the other cases alone. Of more than 2,000 training crops so many are kept, evenly spread. None
    without validation crops or with too few to compare.
    """
    known, held_out = (_statistics(crops) for crops in (training, validation))
    found = ~np.isnan(known).any(axis=1)
    names = np.asarray(groups if groups is not None else [""] * len(known), dtype=str)[found]
    known, held_out = known[found], held_out[~np.isnan(held_out).any(axis=1)]
    if len(known) <= NEIGHBOURS or not len(held_out):
        return None
    mean, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
    values, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit((known - mean) / spread).covariance_)
    whitening = (axes / np.sqrt(np.maximum(values, _LEAST_VARIANCE))) / spread[:, np.newaxis]
    chosen = np.unique(np.linspace(0, len(known) - 1, min(MAX_BANK, len(known))).astype(int))
    bank = ((known[chosen] - mean) @ whitening).astype(np.float32)
    distances = Novelty(mean, whitening, bank, np.inf, share).distances(held_out)
    both = np.concatenate([distances, _distances_to_other_cases(bank.astype(np.float64), names[chosen])])
    return Novelty(mean, whitening, bank, max(_conformal(distances, share), _conformal(both, share)), share)


def _conformal(distances: NDArray[np.float64], share: float) -> float:
    """What at most the share of further distances like these exceeds, the largest where they are too few for that."""
    rank = min(len(distances), math.ceil((len(distances) + 1) * (1 - share)))
    return float(np.sort(distances)[rank - 1])


def _distances_to_other_cases(points: NDArray[np.float64], names: NDArray[np.str_]) -> NDArray[np.float64]:
    """Squared distances to the fifth nearest of points (M, K) of other cases; none where there are too few of these."""
    squared = squared_distances(points, points)
    squared[names[:, np.newaxis] == names] = np.inf
    found = np.partition(squared, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    return np.asarray(found[np.isfinite(found)])


def _statistics(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    return np.array([statistics_of(crop) for crop in crops]).reshape(len(crops), len(STATISTICS))
