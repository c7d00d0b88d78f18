"""Objects of a whole metaphase: what stands out from its surroundings by a share of its own contrast."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import regionprops

from supcam.serving.levels import Grey
from supcam.serving.paper import WHITE, on_white
from supcam.serving.surroundings import INVERTED_NOTE, frame_sides, upright

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

# Share of an object's height above its surroundings at which its outline lies. Dyes shine beyond the outline, so the
# level is that of the half height less what hand-made outlines are wider; the pale bands of bright-field pictures lie
# lower than that. Chosen on half of the slides, see docs/metaphases.md.
DARK_GROUND_LEVEL, BRIGHT_FIELD_LEVEL = 0.38, 0.22
# Windows around a pixel in which the height and the surroundings are looked for, in chromosome widths.
_HEIGHT_WINDOW, _SURROUNDINGS_WINDOW = 1.2, 2.3
# Chromosomes are looked at with about so many pixels across; a picture with more is averaged down.
_WIDTH, _FIRST_SIDE = 11.0, 1100
# A metaphase spans about so many chromosome widths; where the search for the width begins.
_WIDTHS_ACROSS = 50
# Objects of fewer pixels or a lower height above the noise are not looked at.
_LEAST_AREA, _NOISES = 20, 6.0
# Nuclei have no gap within so many widths around the middle, seen against the lowest level within so many more.
# For each kind: the window; shares of a chromosome's height within it, at the outline, and between the brightest and
# the darkest fifth. Those paler than chromosomes are wider, and even, unlike a dense metaphase with glow within.
_SOLID, _FAR_WINDOW = ((2.4, 0.9, 0.4, math.inf), (5.0, 0.25, 0.2, 0.4)), 12.0
_COMPACT = 0.85  # share of its convex hull that a nucleus fills
# Objects that decide how wide a chromosome is.
_LARGEST = 200


@dataclass(frozen=True)
class Ground:
    """A picture brought onto white paper at the scale at which objects are found.

    Attributes:
        grey: (h, w), dark objects on paper of level 255.
        factor: whole number by which the picture was averaged down.
        inverted: whether the picture is bright on dark.
        noise: standard deviation of the paper, grey levels.
        offset: rows and columns of a frame that was taken off, in pixels of the picture.
        shape: height and width of the picture.
    """

    grey: Grey
    factor: int
    inverted: bool
    noise: float
    offset: tuple[int, int]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """What stands out from the paper.

    Attributes:
        labels: (h, w), 0 for paper and k for object k - 1, at the scale of the ground.
        paper: (h, w), level of the paper near each pixel.
        width: width of a chromosome, pixels at the scale of the ground; 0 where nothing was found.
        height: usual height of a chromosome above its surroundings, grey levels; 0 where nothing was found.
        nuclei: (h, w), where everything within some widths is as high as chromosomes are, so that no gap is there.
        specks: regions too small or too faint to be looked at.
    """

    labels: Labels
    paper: Grey
    width: float
    height: float
    nuclei: Mask
    specks: int


def ground_of(values: Grey, *, lossy: bool = False, factor: int = 1) -> Ground:
    """Bring a decoded picture (H, W), 0 to 255, onto white paper by the principles of the one reading."""
    shape = values.shape[0], values.shape[1]
    small = _averaged(values, factor)
    hidden = ~np.isfinite(small)
    small = np.where(hidden, 0, small).astype(np.float32)
    top, bottom, left, right = frame_sides(small)
    inside = np.s_[top : small.shape[0] - bottom, left : small.shape[1] - right]
    notes: list[str] = []
    turned, hidden = upright(small[inside], hidden[inside], notes)
    inverted = INVERTED_NOTE in notes
    paper = on_white(turned, hidden, lossy, notes)
    return Ground(paper.grey, factor, inverted, paper.noise, (top * factor, left * factor), shape)


def _averaged(values: Grey, factor: int) -> Grey:
    if factor == 1:
        return values.astype(np.float32)
    # In strips, since Pillow copies twice what it gets, and a whole metaphase is large.
    height = 64 * factor
    strips = [Image.fromarray(values[top : top + height]).reduce(factor) for top in range(0, len(values), height)]
    return np.concatenate([np.asarray(strip, dtype=np.float32) for strip in strips])


def find_objects(values: Grey, *, lossy: bool = False) -> tuple[Ground, Found]:
    """Find what stands out in a decoded picture (H, W), 0 to 255, at the scale of its own chromosomes.

    The width of a chromosome decides how far around a pixel its height and its surroundings are looked for. It is not
    known before: the search begins with a usual one and goes on with what it finds until that no longer changes.
    """
    longest = max(values.shape)
    ground = ground_of(values, lossy=lossy, factor=max(1, math.ceil(longest / _FIRST_SIDE)))
    width = max(6.0, max(ground.grey.shape) / _WIDTHS_ACROSS)
    found = _outlined(ground, width)
    for _ in range(4):
        if not found.width or 0.8 <= found.width / width <= 1.25:
            break
        width = found.width
        factor = max(1, int(width * ground.factor / _WIDTH))
        if factor > ground.factor or (factor < ground.factor and longest / factor <= 2 * _FIRST_SIDE):
            width *= ground.factor / factor
            ground = ground_of(values, lossy=lossy, factor=factor)
        found = _outlined(ground, width)
    return ground, found


def _outlined(ground: Ground, width: float) -> Found:
    """Objects whose outline lies at a share of the height that the picture reaches near it."""
    signal = WHITE - ground.grey
    smooth = ndimage.gaussian_filter(signal, 0.09 * width)
    low = _near(ndimage.minimum_filter, smooth, _SURROUNDINGS_WINDOW * width)
    high = _near(ndimage.maximum_filter, smooth, _HEIGHT_WINDOW * width)
    level = DARK_GROUND_LEVEL if ground.inverted else BRIGHT_FIELD_LEVEL
    fine = ndimage.gaussian_filter(signal, 0.045 * width)
    noise = max(ground.noise, 0.7)
    mask = (fine - low > level * (high - low)) & (fine - low > 3 * noise) & (high - low > _NOISES * noise)
    labels = connected(mask)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    large = areas >= max(_LEAST_AREA, 0.15 * width**2)
    order = np.cumsum(large) * large
    specks = int(np.count_nonzero(areas[1:])) - int(large.sum())
    labels = order[labels].astype(np.int32)
    width, height = _usual(labels, fine - low)
    nuclei = _solid(signal, width, height) if width else np.zeros_like(mask)
    return Found(labels, (WHITE - low).astype(np.float32), width, height, nuclei, specks)


def _solid(signal: Grey, width: float, height: float) -> Mask:
    """Where no gap is within a window wider than two chromosomes: the inside of nuclei, grown back to the outline."""
    smooth = ndimage.gaussian_filter(signal, 0.15 * width)
    above = smooth - ndimage.minimum_filter(smooth, _odd(_FAR_WINDOW * width))
    nuclei = np.zeros(signal.shape, dtype=bool)
    for window, share, outline, spread in _SOLID:
        side = _odd(window * width)
        inner: Mask = np.asarray(ndimage.minimum_filter(above, side) > share * height)
        if inner.any():
            high = above > outline * height
            # A compact region with such an inside is a nucleus as a whole; where chromosomes hang on it, what is near.
            nuclei |= _compact_around(inner, high, above, spread * height)
            if math.isinf(spread):
                nuclei |= high & (ndimage.distance_transform_edt(~inner) <= 0.65 * side)
    return nuclei


def _compact_around(inner: Mask, high: Mask, above: Grey, spread: float) -> Mask:
    """Regions of ``high`` that hold some of ``inner``, nearly fill their convex hull, and are even in ``above``."""
    regions = connected(high)
    whole = np.zeros(int(regions.max()) + 1, dtype=bool)
    chosen = set(np.unique(regions[inner]).tolist())
    for region in regionprops(regions, above):  # type: ignore[no-untyped-call]
        if region.label in chosen and region.solidity >= _COMPACT:
            low, top = np.percentile(region.image_intensity[region.image], (20, 80))
            whole[region.label] = top - low <= spread
    return np.asarray(whole[regions])


def _odd(window: float) -> int:
    return 2 * round(0.5 * window) + 1


def connected(mask: Mask) -> Labels:
    """Number the 8-connected regions of a mask (h, w) from 1."""
    return np.asarray(ndimage.label(mask, np.ones((3, 3)))[0], dtype=np.int32)


def _near(extreme: Callable[..., Grey], smooth: Grey, window: float) -> Grey:
    side = max(3, _odd(window))
    return np.asarray(ndimage.gaussian_filter(extreme(smooth, side), side / 4), dtype=np.float32)


def thicknesses(labels: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean width as of a strip, and diameter of the largest disk, of each object, pixels, (n,) each."""
    count = int(labels.max())
    if not count:
        return np.zeros(0), np.zeros(0)
    inner = ndimage.distance_transform_edt(labels > 0)
    index = np.arange(1, count + 1)
    # Half a pixel lies between the outline and the centre of the first pixel inside of it.
    mean, largest = ndimage.mean(inner, labels, index) - 0.5, ndimage.maximum(inner, labels, index) - 0.5
    return 4 * np.asarray(mean), 2 * np.asarray(largest)


def _usual(labels: Labels, heights: Grey) -> tuple[float, float]:
    """Width and height of a chromosome: the commonest width among the largest objects, and their median height."""
    widths, _ = thicknesses(labels)
    if not len(widths):
        return 0.0, 0.0
    areas = np.bincount(labels.ravel(), minlength=len(widths) + 1)[1:]
    chosen = np.argsort(-areas, kind="stable")[:_LARGEST]
    widths, lengths = np.maximum(widths[chosen], 1.0), (areas / np.maximum(widths, 1.0))[chosen]
    # How much longer than a disk: a nucleus weighs nothing, and a clump as a few of the chromosomes that are in it.
    weights = widths * np.clip(lengths / widths - 1.7, 0.05, 4)
    near = np.abs(np.log(widths[:, np.newaxis] / widths)) < math.log(1.35)
    best = near[int(np.argmax(near @ weights))]
    level = ndimage.mean(heights, labels, chosen[best] + 1)
    return float(np.average(widths[best], weights=weights[best])), float(np.median(level))
