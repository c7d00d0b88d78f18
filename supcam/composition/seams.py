"""Where two chromosomes of a cluster touch, so that a crossing laid on it does not hide what its type says."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.segmentation import watershed

from supcam.composition.masks import EIGHT, WHITE, Body, Mask, Points
from supcam.serving.bodies import dilated

MOST_HIDDEN = 0.25  # of a touch's pixels: with more of them below further sources it does not show any more
_SMOOTH = 0.12  # times the width: grain of single pixels splits nothing
_LEAST_SMOOTH = 0.6  # pixels
_MIN_PART = 0.06  # of the core: smaller pieces are ends and bands of one chromosome
_LEVELS = 40
_DOUBT = 0.05  # of convexity: a cut that leaves parts less convex by that is not the touch


def find_seams(body: Body, width: float) -> tuple[Points, ...]:
    """Where the touch of a cluster may lie, the most likely place first: each the pixels (K, 2) of ``body``'s frame.

    As the level of darkness rises the cluster falls into parts, at its touches and at light bands of its chromosomes.
    Of the watersheds between parts of some size, the touch is the one that leaves the most convex parts: two bars,
    where a cut through a band leaves one bar short and the other bent. Those that are nearly as good, and the lightest
    one, may be it as well. ``width`` is how thick its chromosomes are. Empty where no touch shows.
    """
    cuts = list(_cuts(body, width))
    if not cuts:
        return ()
    convexity = [_convexity(body.halo, cut) for cut in cuts]
    likely = [number for number in range(len(cuts)) if convexity[number] >= max(convexity) - _DOUBT or number == 0]
    return tuple(cuts[number] for number in sorted(likely, key=lambda number: -convexity[number]))


def _cuts(body: Body, width: float) -> Iterator[Points]:
    """Watersheds between two neighbouring parts of some size, in the order in which the rising level parts them."""
    density = ndimage.gaussian_filter(
        np.where(body.halo, WHITE - body.image.astype(np.float64), 0.0), max(_LEAST_SMOOTH, _SMOOTH * width)
    )
    seen: set[bytes] = set()
    number = 1
    for level in np.quantile(density[body.halo], np.linspace(0.02, 0.8, _LEVELS)):
        parts, _ = ndimage.label((density > level) & body.halo, EIGHT)
        large = np.flatnonzero(np.bincount(parts.ravel())[1:] >= _MIN_PART * body.core_area) + 1
        if large.size in (0, 1, number):
            number = large.size
            continue
        number = large.size
        markers = np.where(np.isin(parts, large), parts, 0)
        basins = watershed(-density, markers, EIGHT, mask=body.halo, watershed_line=True)  # type: ignore[no-untyped-call]
        near = [dilated(basins == part) & body.halo & (basins == 0) for part in large]
        for one, other in combinations(near, 2):
            cut = np.argwhere(one & other)
            if len(cut) >= 2 and cut.tobytes() not in seen:
                seen.add(cut.tobytes())
                yield cut


def _convexity(halo: Mask, cut: Points) -> float:
    """Area of the parts that a cut leaves, over that of their convex hulls: near 1 for two bars, less for one bent."""
    rest = halo.copy()
    rest[tuple(cut.T)] = False
    parts, count = ndimage.label(rest, EIGHT)
    if count < 2:
        return 0.0
    area = hulls = 0.0
    for part in range(1, count + 1):
        inside = np.argwhere(parts == part)
        corners = np.concatenate([inside + step for step in ((0, 0), (0, 1), (1, 0), (1, 1))])
        area, hulls = area + len(inside), hulls + ConvexHull(corners).volume
    return area / hulls


def lies_below(points: Points, halo: Mask) -> Mask:
    """Which of the pixels (K, 2) lie in ``halo`` (H, W); those outside its frame do not."""
    row, column = points.T
    inside: Mask = (row >= 0) & (row < halo.shape[0]) & (column >= 0) & (column < halo.shape[1])
    inside[inside] = halo[row[inside], column[inside]]
    return inside
