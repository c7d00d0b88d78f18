"""How unlike the training crops a crop is: its greys, texture and outline against those of its nearest training crops.

Features of the network are not used: it learned to ignore stain and texture, and so hardly sees that these are new
(table in docs/evaluation.md).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import FOREGROUND, WHITE

NOVELTY_FILE = "novelty.npz"
NEIGHBOURS = 5
STATISTICS = (
    "grey below which 10 % of the foreground lie",
    "50 %",
    "90 %",
    "standard deviation of the greys",
    "step between neighbours exceeded by 10 %",
    "mean mixed second difference, which grows with noise and sharpness",
    "logarithm of the area",
    "area over length of the outline, which grows with the width",
)
_QUANTILES = np.array([0.1, 0.5, 0.9])


@dataclass(frozen=True)
class Novelty:
    """Statistics of training crops, and the distance to them from which a crop is unlike all of them.

    Attributes:
        mean: (K,) mean of each statistic of the training crops.
        whitening: (K, K) makes the statistics, less their mean, uncorrelated and of variance 1.
        bank: (M, K) training crops after that.
        threshold: squared distance to the fifth nearest of them above which a crop is unlike them.
        share: expected share of crops above it among crops like those of training, 0-1.
    """

    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]
    bank: NDArray[np.float32]
    threshold: float
    share: float

    @classmethod
    def read(cls, folder: Path) -> "Novelty | None":
        """That of a package; None in packages of earlier versions, which have none."""
        path = folder / NOVELTY_FILE
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as stored:
            threshold, share = (float(stored[name]) for name in ("threshold", "share"))
            return cls(stored["mean"], stored["whitening"], stored["bank"], threshold, share)

    def write(self, folder: Path) -> None:
        """Write it into a package; the same values give the same bytes."""
        np.savez(folder / NOVELTY_FILE, **vars(self))

    def distances(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (N,) to the fifth nearest training crop of crops with such statistics (N, K)."""
        points = (statistics - self.mean) @ self.whitening
        squared = squared_distances(points, self.bank.astype(np.float64))
        near = min(NEIGHBOURS, len(self.bank)) - 1
        return np.asarray(np.partition(squared, near, axis=1)[:, near])

    def unlike(self, statistics: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether crops (N,) with such statistics (N, K) are unlike the training crops; not where they are NaN."""
        return np.asarray(self.distances(statistics) > self.threshold)


def squared_distances(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of points (N, K) to others (M, K): (N, M)."""
    return np.asarray((points**2).sum(axis=1)[:, np.newaxis] + (others**2).sum(axis=1) - 2 * points @ others.T)


def statistics_of(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The :data:`STATISTICS` (K,) of a read crop (H, W) on white 255; NaN where nothing stands on the paper.

    They are of the foreground alone, in pixels as given: white around the body changes nothing.
    """
    found = image < FOREGROUND
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if not len(rows):
        return np.full(len(STATISTICS), np.nan)
    # With a white line around it, so that its outline is seen where it reaches an edge.
    grey = np.pad(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1, constant_values=WHITE)
    ink, dark = grey < FOREGROUND, WHITE - grey.astype(np.int16)
    area = int(np.count_nonzero(ink))
    levels = np.searchsorted(np.cumsum(np.bincount(grey[ink])), _QUANTILES * area)
    beside, below = ink[:, 1:] & ink[:, :-1], ink[1:] & ink[:-1]
    across, down = np.diff(dark, axis=1), np.diff(dark, axis=0)
    steps = np.abs(np.concatenate([across[beside], down[below]]))
    square = below[:, 1:] & below[:, :-1]
    mixed = np.abs(np.diff(across, axis=0)[square])
    outline = area - int(np.count_nonzero(below[:-1, 1:-1] & below[1:, 1:-1] & beside[1:-1, :-1] & beside[1:-1, 1:]))
    return np.array(
        [
            *levels,
            dark[ink].std(),
            np.quantile(steps, 0.9) if len(steps) else 0.0,
            mixed.mean() if len(mixed) else 0.0,
            np.log(area),
            area / outline,
        ]
    )
