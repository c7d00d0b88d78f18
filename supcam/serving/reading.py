"""From a decoded plane to the one picture that every part of the product sees: 8-bit grey, dark body on white 255."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bodies import Mask, Regions, connected_regions, dilated, eroded, is_flat, peeled_sizes
from .paper import FOREGROUND, WHITE, Grey, Paper, commonest, edges_of, means_of, on_white
from .robust import median_of, percentiles_of, share_of
from .surroundings import CUT_OUT_NOTE, SOFT_NOTE, frame_sides, is_plain, upright, without_dead_lines

__all__ = ["FOREGROUND", "MAX_WORKING_SIDE", "WHITE", "Measurements", "Reading", "bodies_alone", "read_grey"]

# Longest side that is looked at in full; larger pictures are averaged down first (no cluster fills so many pixels).
MAX_WORKING_SIDE = 1024

# A body may be saturated and so seem drawn; only something of at least this share of its size takes its place.
_SMALLER = 0.4
# Chromosomes of a cell are about equally wide and none is much shorter than wide: what is thinner than half a width,
# or smaller than half a width squared, is dirt.
_DIRT_THICKNESS, _DIRT_AREA = 0.5, 0.5
# No pixel of a body's pale fringe is darker.
_PALE = 225
# Of more regions than a metaphase has chromosomes the largest alone are looked at.
_MOST_BODIES = 128
# No metaphase of fewer pixels a side shows its chromosomes.
_CROWD_SIDE = 128
# Up to this share of pixels without a value are dead ones; more are the surroundings of a cut-out.
_FEW_HIDDEN = 0.02


@dataclass(frozen=True)
class Measurements:
    """What the gate judges, measured on the read picture; lengths in pixels, shares 0-1.

    Attributes:
        paper: share of the picture that is paper.
        border_paper: share of the four outermost lines that is paper.
        noise: standard deviation of the paper, grey levels.
        contrast: paper minus median of the main body, grey levels; 0 without a body.
        width: mean width of the main body.
        area: pixels of all bodies of chromosome size.
        extent: longer side of the box around all bodies of chromosome size.
        bodies: number of bodies of chromosome size.
        cut: longest stretch of one edge that runs through the inside of a body.
        flat: whether the main body has one grey value.
        blurred_outline: whether a frame or the surroundings of a cut-out were taken off that a lossy format or
            resampling had blurred into the body.
        crowding: number of dark parts times the foreground in squared widths of these parts. It finds a metaphase that
            the glow of the cell joins to one body; 0 in pictures too small to hold one.
    """

    paper: float = 0.0
    border_paper: float = 0.0
    noise: float = 0.0
    contrast: float = 0.0
    width: float = 0.0
    area: int = 0
    extent: int = 0
    bodies: int = 0
    cut: int = 0
    flat: bool = False
    blurred_outline: bool = False
    crowding: float = 0.0


@dataclass(frozen=True)
class Reading:
    """A picture as it is used, and what is known of it.

    Attributes:
        image: (H, W), uint8, on white 255.
        shape: height and width as given; only pictures of more than ``MAX_WORKING_SIDE`` are smaller here.
        notes: what was changed on the way to it.
        measurements: what the gate judges.
    """

    image: NDArray[np.uint8]
    shape: tuple[int, int]
    notes: tuple[str, ...] = ()
    measurements: Measurements = field(default_factory=Measurements)


def read_grey(grey: NDArray[np.float32] | NDArray[np.uint8], *, lossy: bool = False) -> Reading:
    """Normalise a picture (H, W) whose values run from black 0 to the full scale 255.

    Values that are not finite stand for pixels without picture, as outside a cut-out. A clean crop, dark on white 255
    with nothing but one body, comes back as it is, to the byte.
    """
    shape = (grey.shape[0], grey.shape[1])
    notes: list[str] = []
    if grey.dtype == np.uint8 and not lossy and max(shape) <= MAX_WORKING_SIDE and is_plain(grey):
        plain = Paper(grey.astype(np.float32), grey < FOREGROUND, 0.0, True)
        image, measured = bodies_alone(plain, notes)
        return Reading(image, shape, tuple(notes), measured)
    values = np.asarray(grey, dtype=np.float32)
    values = _reduced(values, notes)
    hidden = ~np.isfinite(values)
    if hidden.any():
        few = share_of(hidden) < _FEW_HIDDEN and not hidden.all()
        values = np.where(hidden, commonest(values[~hidden][np.newaxis]) if few else 0, values).astype(np.float32)
        hidden &= not few
    top, bottom, left, right = frame_sides(values)
    inner = values[top : values.shape[0] - bottom, left : values.shape[1] - right]
    if inner.size != values.size:
        notes.append("frame taken off")
    hidden = hidden[top : values.shape[0] - bottom, left : values.shape[1] - right]
    inner, hidden = upright(without_dead_lines(inner, notes), hidden, notes)
    paper = on_white(inner, hidden, lossy, notes)
    image, measured = bodies_alone(paper, notes)
    compressed = lossy and (inner.size != values.size or CUT_OUT_NOTE in notes)
    measured = replace(measured, blurred_outline=compressed or SOFT_NOTE in notes)
    if inner.size != values.size:
        image = np.pad(image, ((top, bottom), (left, right)), constant_values=WHITE)
    return Reading(image, shape, tuple(notes), measured)


def _reduced(values: Grey, notes: list[str]) -> Grey:
    factor = math.ceil(max(values.shape) / MAX_WORKING_SIDE)
    if factor == 1:
        return values
    notes.append(f"averaged down {factor} times")
    return np.asarray(Image.fromarray(values).reduce(factor), dtype=np.float32)


def bodies_alone(paper: Paper, notes: list[str]) -> tuple[NDArray[np.uint8], Measurements]:
    """Turn white what does not belong to a body, and measure what is left."""
    grey = paper.grey
    image = np.rint(grey).astype(np.uint8)
    regions = connected_regions(paper.foreground)
    basics = Measurements(
        paper=1 - share_of(paper.foreground),
        border_paper=1 - share_of(edges_of(paper.foreground)),
        noise=paper.noise,
        crowding=_crowding(grey, paper.foreground),
    )
    if not len(regions):
        if not paper.clean:
            image[:] = WHITE
        return image, basics
    main, flats = _main_body(regions, image)
    body = regions.labels == main + 1
    width = mean_width(body)
    keep, sized = _kept(regions, image, main, flats, width)
    if not keep.all():
        notes.append("dirt or drawing beside the body turned white")
    kept = regions.mask(keep)
    shown = image.copy()
    if paper.clean:
        shown[paper.foreground & ~kept] = WHITE
    else:
        shown[~kept] = WHITE
    boxes = regions.boxes[sized]
    sides = boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0) + 1
    inside = image[body]
    middle = median_of(inside)
    return shown, replace(
        basics,
        contrast=WHITE - middle,
        width=width,
        area=int(regions.areas[sized].sum()),
        extent=int(sides.max()),
        bodies=int(sized.sum()),
        cut=_cut(image, kept, (WHITE + middle) / 2),
        flat=bool(flats[main]),
    )


def _crowding(grey: Grey, foreground: Mask) -> float:
    """See :class:`Measurements`; smoothed first, so that the bands of one chromosome count as one part mostly."""
    if max(grey.shape) < _CROWD_SIDE or not foreground.any():
        return 0.0
    smooth = means_of(means_of(means_of(grey)))
    half = (WHITE + percentiles_of(smooth[foreground], 5)[0]) / 2
    parts = connected_regions((smooth < half) & foreground)
    chosen = np.flatnonzero(parts.areas >= 9)
    # The widths of a sample are enough for their median.
    sample = chosen[:: max(1, len(chosen) // 64)]
    widths = [mean_width(parts.cutout(int(index))[1]) for index in sample]
    return len(chosen) * int(foreground.sum()) / float(np.median(widths)) ** 2 if widths else 0.0


def _main_body(regions: Regions, image: NDArray[np.uint8]) -> tuple[int, Mask]:
    """Index of the largest region, of a somewhat smaller one if that is drawn; and which of them are drawings."""
    flats = np.zeros(len(regions), dtype=bool)
    order = np.argsort(-regions.areas, kind="stable")
    largest = int(order[0])
    for index in order[:16]:
        if regions.areas[index] < _SMALLER * regions.areas[largest]:
            break
        box, mask = regions.cutout(int(index))
        flats[index] = is_flat(image[box][mask])
        if not flats[index]:
            return int(index), flats
    return largest, flats


def mean_width(body: Mask) -> float:
    """Width of a body in pixels as of a strip: peeling a strip of width w leaves w - 2, w - 4 ... of it."""
    sizes = peeled_sizes(body)
    return max(1.0, 4 * sum(sizes) / sizes[0] - 2) if sizes else 0.0


def _kept(regions: Regions, image: NDArray[np.uint8], main: int, flats: Mask, width: float) -> tuple[Mask, Mask]:
    """Which regions stay in the picture, and which of these are of chromosome size."""
    sized = np.zeros(len(regions), dtype=bool)
    sized[main] = True
    large = (regions.areas >= _DIRT_AREA * width**2) & ~flats
    candidates = np.flatnonzero(large)
    # So many make no cluster whatever the rest is.
    for index in candidates[np.argsort(-regions.areas[candidates], kind="stable")][:_MOST_BODIES]:
        if index != main:
            sized[index] = _is_body(regions, image, int(index), width)
    keep = sized.copy()
    if len(regions) > 1:
        near = regions.labels == main + 1
        for distance in range(3):
            near = dilated(near)
            for index in np.unique(regions.labels[near & (regions.labels > 0)]) - 1:
                keep[index] |= _is_own(regions, image, int(index), distance < 2)
    return keep, sized


def _is_own(regions: Regions, image: NDArray[np.uint8], index: int, close: bool) -> bool:
    """Whether a bit beside the body is its own: pale as its fringe or, behind a gap of a pixel, no thin stroke."""
    box, mask = regions.cutout(index)
    values = image[box][mask]
    if values.min() >= _PALE:
        return True
    return bool(close and eroded(np.pad(mask, 1), square=True).any() and not is_flat(values))


def _is_body(regions: Regions, image: NDArray[np.uint8], index: int, width: float) -> bool:
    box, mask = regions.cutout(index)
    return not is_flat(image[box][mask]) and 2 * len(peeled_sizes(mask)) - 1 >= _DIRT_THICKNESS * width


def _cut(image: NDArray[np.uint8], kept: Mask, level: float) -> int:
    """Longest stretch of one edge that is darker than half of the body."""
    inside = (image < level) & kept
    return max(_longest(line) for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def _longest(line: Mask) -> int:
    if not line.any():
        return 0
    stops = np.flatnonzero(~np.concatenate([[False], line, [False]]))
    return int(np.diff(stops).max()) - 1
