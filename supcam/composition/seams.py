"""Where two chromosomes of a cluster touch, so that a crossing laid on it does not hide what its type says."""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from supcam.composition.masks import EIGHT, WHITE, Body, Mask, Points

MOST_HIDDEN = 0.25  # of a touch's pixels: with more of them below further sources it does not show any more
_SMOOTH = 0.12  # times the width: grain of single pixels splits nothing
_LEAST_SMOOTH = 0.6  # pixels
_MIN_PART = 0.06  # of the core: smaller pieces are ends and bands of one chromosome
_LEVELS = 40


def find_seam(body: Body, width: float) -> Points | None:
    """Pixels (K, 2) of ``body``'s frame in which the clearest touch of a cluster lies; ``None`` where none shows.

    As the level of darkness rises the cluster falls into parts; the first time that two of them are of some size,
    the watershed between all such parts is the seam. Of real touching crops (``mfish-slides``) nine in ten have one.
    ``width`` is how thick its chromosomes are.
    """
    density = ndimage.gaussian_filter(
        np.where(body.halo, WHITE - body.image.astype(np.float64), 0.0), max(_LEAST_SMOOTH, _SMOOTH * width)
    )
    # Two that touch keep a lighter line between them; a single chromosome's light bands part smaller pieces only.
    for level in np.quantile(density[body.halo], np.linspace(0.02, 0.8, _LEVELS)):
        parts, _ = ndimage.label((density > level) & body.halo, EIGHT)
        large = np.flatnonzero(np.bincount(parts.ravel())[1:] >= _MIN_PART * body.core_area) + 1
        if large.size >= 2:
            markers = np.where(np.isin(parts, large), parts, 0)
            basins = watershed(-density, markers, EIGHT, mask=body.halo, watershed_line=True)  # type: ignore[no-untyped-call]
            seam = np.argwhere(body.halo & (basins == 0))
            return seam if len(seam) else None
    return None


def lies_below(points: Points, halo: Mask) -> Mask:
    """Which of the pixels (K, 2) lie in ``halo`` (H, W); those outside its frame do not."""
    row, column = points.T
    inside: Mask = (row >= 0) & (row < halo.shape[0]) & (column >= 0) & (column < halo.shape[1])
    inside[inside] = halo[row[inside], column[inside]]
    return inside
