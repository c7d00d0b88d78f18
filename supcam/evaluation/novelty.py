"""What a package carries to tell crops unlike its training crops, and whether too many of a folder's are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from supcam.serving.novelty import NEIGHBOURS, STATISTICS, Novelty, statistics_of

MAX_BANK = 2_000
_LEAST_VARIANCE = 1e-4  # of standardised statistics: directions that hardly vary must not decide alone


def fit_novelty(
    training: Sequence[NDArray[np.uint8]], validation: Sequence[NDArray[np.uint8]], share: float
) -> Novelty | None:
    """Summarise training crops, with the threshold that the share ``share`` (0-1) of validation crops exceeds.

    Crops are read ones, (H, W). The threshold is set on validation crops, since training crops are their own
    neighbours; it is the conformal one, the largest distance where there are fewer than 1 / share crops. Of more than
    2,000 training crops so many are kept, evenly spread. None without validation crops or with too few to compare.
    """
    known, held_out = (_statistics(crops) for crops in (training, validation))
    if len(known) <= NEIGHBOURS or not len(held_out):
        return None
    mean, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
    values, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit((known - mean) / spread).covariance_)
    whitening = (axes / np.sqrt(np.maximum(values, _LEAST_VARIANCE))) / spread[:, np.newaxis]
    chosen = np.unique(np.linspace(0, len(known) - 1, min(MAX_BANK, len(known))).astype(int))
    bank = ((known[chosen] - mean) @ whitening).astype(np.float32)
    distances = np.sort(Novelty(mean, whitening, bank, np.inf, share).distances(held_out))
    rank = min(len(distances), int(np.ceil((len(distances) + 1) * (1 - share))))
    return Novelty(mean, whitening, bank, float(distances[rank - 1]), share)


def _statistics(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    rows = np.array([statistics_of(crop) for crop in crops]).reshape(len(crops), len(STATISTICS))
    return np.asarray(rows[~np.isnan(rows).any(axis=1)])
