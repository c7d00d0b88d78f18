"""From a decoded plane to the one picture that every part of the product sees: 8-bit grey, dark body on white 255."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bodies import Mask, Regions, connected_regions, dilated, eroded, peeled_sizes

Grey = NDArray[np.float32]

WHITE = 255
# Foreground is below this level once the paper is 255.
FOREGROUND = 250
# Longest side that is looked at in full; larger pictures are averaged down first (no cluster fills so many pixels).
MAX_WORKING_SIDE = 1024

# A drawn thing (bar, letter, rectangle) has one grey value; no photographed chromosome has.
_FLAT_SPREAD, _FLAT_SHARE = 6, 0.8
# A body may be saturated and so seem drawn; only something of at least this share of its size takes its place.
_SMALLER = 0.4
# Chromosomes of a cell are about equally wide and none is much shorter than wide: what is thinner than half a width,
# or smaller than half a width squared, is dirt.
_DIRT_THICKNESS, _DIRT_AREA = 0.5, 0.5
# No pixel of a body's pale fringe is darker.
_PALE = 225
_MAX_FRAME = 24
# Pixels through which the surface of uneven paper is fitted.
_SURFACE_SAMPLES = 2500
# A filling has one level in at least this share of it, and ends in a step of at least so many grey levels; uneven
# paper has many levels and goes on smoothly.
_FILL_SHARE, _FILL_STEP = 0.75, 8
# Lossy compression leaves ripples of about so many grey levels around a body.
_RINGING = 2.5
# No metaphase of fewer pixels a side shows its chromosomes.
_CROWD_SIDE = 128
# Up to this share of pixels without a value are dead ones; more are the surroundings of a cut-out.
_FEW_HIDDEN = 0.02
# Around a body cut out of dark paper and set on white, the rim is darker than this.
_DARK_RIM = 110

_CUT_OUT_NOTE = "surroundings of a cut-out turned white"


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
        blurred_outline: whether a frame or the surroundings of a cut-out were taken off a picture that a lossy format
            had blurred into the body.
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


@dataclass
class _Paper:
    """A picture brought onto bright paper of level 255, its mask of foreground, and what is known of the paper."""

    grey: Grey
    foreground: Mask
    noise: float
    clean: bool


def read_grey(grey: NDArray[np.float32] | NDArray[np.uint8], *, lossy: bool = False) -> Reading:
    """Normalise a picture (H, W) whose values run from black 0 to the full scale 255.

    Values that are not finite stand for pixels without picture, as outside a cut-out. A clean crop, dark on white 255
    with nothing but one body, comes back as it is, to the byte.
    """
    notes: list[str] = []
    values = np.asarray(grey, dtype=np.float32)
    values = _reduced(values, notes)
    hidden = ~np.isfinite(values)
    if hidden.any():
        few = hidden.mean() < _FEW_HIDDEN and not hidden.all()
        values = np.where(hidden, _commonest(values[~hidden][np.newaxis]) if few else 0, values).astype(np.float32)
        hidden &= not few
    top, bottom, left, right = frame_sides(values)
    inner = values[top : values.shape[0] - bottom, left : values.shape[1] - right]
    if inner.size != values.size:
        notes.append("frame taken off")
    hidden = hidden[top : values.shape[0] - bottom, left : values.shape[1] - right]
    inner, hidden = upright(inner, hidden, notes)
    paper = on_white(inner, hidden, lossy, notes)
    image, measured = bodies_alone(paper, notes)
    measured = replace(measured, blurred_outline=lossy and (inner.size != values.size or _CUT_OUT_NOTE in notes))
    if inner.size != values.size:
        image = np.pad(image, ((top, bottom), (left, right)), constant_values=WHITE)
    return Reading(image, (grey.shape[0], grey.shape[1]), tuple(notes), measured)


def _reduced(values: Grey, notes: list[str]) -> Grey:
    factor = math.ceil(max(values.shape) / MAX_WORKING_SIDE)
    if factor == 1:
        return values
    notes.append(f"averaged down {factor} times")
    return np.asarray(Image.fromarray(values).reduce(factor), dtype=np.float32)


def frame_sides(values: Grey) -> tuple[int, int, int, int]:
    """Lines of a frame at top, bottom, left and right: each of one level, with a step to the line inside of it."""
    deepest = min(_MAX_FRAME, min(values.shape) // 4)
    paper = _commonest(values, edges=0)
    return (
        _frame_lines(values[: deepest + 1], paper),
        _frame_lines(values[::-1][: deepest + 1], paper),
        _frame_lines(values.T[: deepest + 1], paper),
        _frame_lines(values.T[::-1][: deepest + 1], paper),
    )


def _frame_lines(lines: Grey, paper: float) -> int:
    """Number of the first lines (n, L) that are frame, none of which has the level of the paper."""
    levels = np.median(lines, axis=1)[:, np.newaxis]
    with np.errstate(invalid="ignore"):
        even = (np.abs(lines - levels) <= 4).mean(axis=1) >= 0.95
        step = (np.abs(lines[1:] - levels[:-1]) > 6).mean(axis=1) >= 0.6
        step &= np.abs(levels[:-1, 0] - paper) > 6
    first_uneven = int(np.argmin(even)) if not even.all() else len(even)
    steps = np.flatnonzero(step[:first_uneven])
    return int(steps[-1]) + 1 if len(steps) else 0


def upright(values: Grey, hidden: Mask, notes: list[str]) -> tuple[Grey, Mask]:
    """Turn dark paper bright, and find what is no picture at all but filled in around a cut-out.

    The rim of a body is nearer to the paper than its inside is, whatever stands around a cut-out. Where the
    surroundings have many levels they are paper, and the body is what differs from them.
    """
    outside, level = hidden, 0.0
    if not hidden.any():
        level = _commonest(values)
        outside = _around(np.abs(values - level) <= max(2.0, 3 * _local_noise(values, level)))
        if not _is_even(values[outside], level):
            return (values if _darker_than_paper(values, level) else _inverted(values, notes)), hidden
    near = dilated(outside)
    far = dilated(near)
    rim, inside = values[far & ~outside & ~hidden], values[~dilated(far)]
    if len(inside) < 8:
        inside = values[~near & ~hidden]
    if not len(rim) or not len(inside):
        return (values if level >= 128 else WHITE - values), hidden
    rim_level, inside_level = float(np.median(rim)), float(np.median(inside))
    if not hidden.any() and abs(inside_level - level) <= 2 and abs(rim_level - level) > 8:
        # A line drawn around the body: within it the paper goes on, so the surroundings are no cut-out's.
        return (values if _darker_than_paper(values, level) else _inverted(values, notes)), hidden
    bright = rim_level >= inside_level or (level >= 128 and rim_level > _DARK_RIM)
    beyond = level >= rim_level if bright else level <= rim_level
    step = 0.0 if hidden.any() else float(np.median(np.abs(values[near & ~outside] - level)))
    if not bright:
        values = _inverted(values, notes)
    if hidden.any() or (not beyond and step >= _FILL_STEP):
        hidden = hidden | _fill(values, outside, rim_level if bright else WHITE - rim_level)
        notes.append(_CUT_OUT_NOTE)
    return values, hidden


def _inverted(values: Grey, notes: list[str]) -> Grey:
    notes.append("dark background inverted")
    return WHITE - values


def _is_even(surroundings: Grey, level: float) -> bool:
    """Whether what stands around the body has one level, as clean paper and what a program filled in have."""
    return bool(len(surroundings) and np.mean(np.abs(surroundings - level) <= 1) >= _FILL_SHARE)


def _darker_than_paper(values: Grey, level: float) -> bool:
    """Whether what differs from the plane through the edges is darker than it."""
    height, width = values.shape
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    terms = [np.ones_like(values), x + 0 * y, y + 0 * x]
    edges = _edges(values)
    solution, reach = _trimmed_fit(np.stack([_edges(term) for term in terms]), edges, edges >= 0, 0.0, rounds=4)
    rest = values - (solution[0] + solution[1] * terms[1] + solution[2] * terms[2])
    body = float(rest[np.abs(rest) > reach].sum())
    return body < 0 if body else level >= 128


def _commonest(values: Grey, edges: float = 1.0) -> float:
    """The grey level most common in the picture, and along its edges by their weight; a peak may be 5 levels wide."""
    levels = np.clip(np.rint(values), 0, WHITE).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256) / levels.size
    if edges:
        line = _edges(levels)
        counts += edges * np.bincount(line, minlength=256) / line.size
    peak = int(np.argmax(np.convolve(counts, np.ones(5), "same")))
    low = max(peak - 2, 0)
    level = low + int(np.argmax(counts[low : peak + 3]))
    exact = values[levels == level]
    return float(exact[0] if (exact == exact[0]).all() else np.median(exact))


def _edges(values: NDArray[Any]) -> NDArray[Any]:
    """Pixels of the four outermost lines in their order around the picture, shape (n,)."""
    return np.concatenate([values[0], values[:, -1], values[-1, ::-1], values[::-1, 0]])


def _local_noise(values: Grey, level: float, reach: float = 25.0) -> float:
    """Noise near a grey level from neighbours in a row, which uneven light hardly moves; 0 where most are equal."""
    close = np.abs(values - level) <= reach
    steps = np.abs(values[:, 1:] - values[:, :-1])[close[:, 1:] & close[:, :-1]]
    return float(np.median(steps)) * 1.4826 / math.sqrt(2) if len(steps) else 0.0


def _around(mask: Mask) -> Mask:
    """The parts of a mask that reach an edge of the picture; without any, those that cover 2 % of it."""
    regions = connected_regions(mask)
    reaching = regions.touching_edge()
    return regions.mask(reaching if reaching.any() else regions.areas >= mask.size // 50)


def _fill(values: Grey, outside: Mask, rim_level: float) -> Mask:
    """All of the filling: the outside, and its level inside of bodies where the rim around shows that it is a hole."""
    if not outside.any():
        return outside
    level = float(np.nanmedian(values[outside])) if np.isfinite(values[outside]).any() else np.nan
    if np.isnan(level):
        return outside
    regions = connected_regions((np.abs(values - level) <= 1) & ~outside)
    holes = np.zeros(len(regions), dtype=bool)
    for index in np.flatnonzero(regions.areas >= 4):
        hole = regions.labels == index + 1
        around = values[dilated(hole) & ~hole]
        holes[index] = np.median(around) > (rim_level + level) / 2
    return outside | regions.mask(holes)


def on_white(values: Grey, hidden: Mask, lossy: bool, notes: list[str]) -> _Paper:
    """Bring bright paper to 255: as it is when clean, by its one level, or by a surface through uneven light."""
    seen = values[~hidden] if hidden.any() else values
    if not seen.size:
        return _Paper(np.full_like(values, WHITE), np.zeros_like(hidden), 0.0, True)
    if hidden.any():
        # A cut-out may show no paper at all; then the brightest of its rim is the nearest to it.
        brightest = float(np.percentile(seen, 99))
        values = np.where(hidden, WHITE if brightest >= 0.6 * WHITE else brightest, values)
    level = _commonest(values)
    # A crop cut to its box has little edge of paper, but that is white; uneven light makes none of it exactly white.
    clean_edge = 0.3 if level == WHITE else 0.6
    if 0 < level < WHITE:
        notes.append(f"grey background {level:.0f} stretched to {WHITE}")
        values = values * np.float32(WHITE / level)
        level = float(WHITE)
    edges = _edges(values)
    # Edges alone: in a faint body neighbours near the level of the paper differ too.
    noise = _local_noise(edges[np.newaxis], level)
    if noise == 0 and (np.abs(edges - level) <= 1.5).mean() >= clean_edge:
        values = np.minimum(values, WHITE)
        if lossy:
            return _without_noise(values, np.abs(values - WHITE) <= 3 * _RINGING, lossy)
        return _Paper(values, np.rint(values) < FOREGROUND, 0.0, True)
    surface, paper = _paper_surface(values, level, noise)
    flat = np.minimum(values * (WHITE / np.maximum(surface, 1)), WHITE)
    flat[hidden] = WHITE
    notes.append("paper evened out")
    return _without_noise(flat, paper, lossy)


def _paper_surface(values: Grey, level: float, noise: float) -> tuple[Grey, Mask]:
    """Level of the paper at each pixel, a polynomial of degree 2 through the paper, and which pixels are paper.

    A plane through the edges comes first, since most of these is paper in every crop; what lies too far from it is body
    and leaves. Then the whole picture is sampled.
    """
    height, width = values.shape
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    terms = [np.ones_like(values), x + 0 * y, y + 0 * x, x * y, x * x + 0 * y, y * y + 0 * x]
    step = max(1, math.isqrt(values.size // _SURFACE_SAMPLES))
    edges, sampled = _edges(values), values[::step, ::step].ravel()
    edge_basis = np.stack([_edges(term) for term in terms])
    basis = np.stack([term[::step, ::step].ravel() for term in terms])
    solution, reach = _trimmed_fit(edge_basis[:3], edges, edges > 0.5 * level, noise, rounds=4)
    near = np.abs(edges - solution @ edge_basis[:3]) <= reach
    if near.sum() >= 24:
        # Bent on the edges first: a vignette's middle lies far from the plane, and the body then is what lies near it.
        solution, reach = _trimmed_fit(edge_basis, edges, near, noise, rounds=2)
        near = np.abs(sampled - solution @ basis) <= reach
        if near.sum() >= 24:
            solution, reach = _trimmed_fit(basis, sampled, near, noise, rounds=3)
    surface: Grey = np.zeros_like(values)
    for factor, term in zip(solution, terms, strict=False):
        surface += factor * term
    paper: Mask = np.abs(values - surface) <= reach
    inside = surface[paper] if paper.any() else surface
    if np.ptp(inside) < max(2.0, noise):
        surface = np.full_like(surface, np.median(values[paper]) if paper.any() else level)
    return surface, paper


def _trimmed_fit(basis: Grey, values: Grey, chosen: Mask, noise: float, rounds: int) -> tuple[Grey, float]:
    """Fit ``values`` (n,) by rows of ``basis`` (k, n), each round without what lies too far from the last fit.

    Returns the coefficients (k,) and the distance within which a pixel counts as paper.
    """
    solution, reach = np.zeros(len(basis), dtype=np.float32), 3.0
    for _ in range(rounds):
        solution = _least_squares(basis[:, chosen], values[chosen])
        rest = np.abs(values - solution @ basis)
        spread = 1.4826 * float(np.median(rest[chosen])) if chosen.any() else 0.0
        reach = max(3.0, 2.5 * spread, 3 * noise)
        chosen = rest <= reach
        if chosen.sum() < 24:
            break
    return solution, reach


def _least_squares(basis: Grey, values: Grey) -> Grey:
    """Coefficients (k,) that fit ``values`` (n,) by rows of ``basis`` (k, n); tiny ridge for thin crops."""
    normal = basis @ basis.T + 1e-3 * np.eye(len(basis), dtype=np.float32)
    solution: Grey = np.linalg.solve(normal, basis @ values)
    return solution


def _without_noise(values: Grey, paper: Mask, lossy: bool) -> _Paper:
    """Foreground where the paper's own noise ends, judged on means of 3 x 3 pixels when there is any noise."""
    residual = values[paper]
    if len(residual) < 16:
        return _Paper(values, np.rint(values) < FOREGROUND, float(WHITE), False)
    # The lower half alone: the upper one is often clipped at white.
    middle_raw, low = np.percentile(residual, (50, 16))
    noise = float(middle_raw - low)
    if lossy:
        noise = max(noise, _RINGING)
    if noise < 0.8:
        return _Paper(values, values < FOREGROUND - 0.5, noise, False)
    smooth = _means(values)
    inner = smooth[eroded(paper, square=True)]
    if len(inner) < 16:
        inner = smooth[paper]
    middle, low = np.percentile(inner, (50, 16))
    spread = float(middle - low)
    weak = smooth < min(FOREGROUND, float(middle) - 4 * spread)
    regions = connected_regions(weak)
    strongest = np.full(len(regions) + 1, np.inf)
    np.minimum.at(strongest, regions.labels[weak], smooth[weak])
    sound = (strongest[1:] < middle - 7 * spread) & (regions.areas >= 4)
    body = regions.mask(sound)
    # The mean reaches one pixel too far around a sharp outline: there the pixel itself decides.
    body &= eroded(body, square=True) | (values < middle_raw - 1.5 * noise)
    return _Paper(values, body, noise, False)


def _means(values: Grey) -> Grey:
    """Means of 3 x 3 pixels, edges repeated."""
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    means: Grey = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
    return means


def bodies_alone(paper: _Paper, notes: list[str]) -> tuple[NDArray[np.uint8], Measurements]:
    """Turn white what is no body, and measure what is left."""
    grey = paper.grey
    image = np.rint(grey).astype(np.uint8)
    regions = connected_regions(paper.foreground)
    basics = Measurements(
        paper=1 - float(paper.foreground.mean()),
        border_paper=1 - float(_edges(paper.foreground).mean()),
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
    middle = float(np.median(inside))
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
    smooth = _means(_means(_means(grey)))
    half = (WHITE + float(np.percentile(smooth[foreground], 5))) / 2
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
        flats[index] = _is_flat(image[box][mask])
        if not flats[index]:
            return int(index), flats
    return largest, flats


def _is_flat(values: NDArray[np.uint8]) -> bool:
    return bool(np.mean(np.abs(values - np.median(values)) <= _FLAT_SPREAD) >= _FLAT_SHARE)


def mean_width(body: Mask) -> float:
    """Width of a body in pixels as of a strip: peeling a strip of width w leaves w - 2, w - 4 ... of it."""
    sizes = peeled_sizes(body)
    return max(1.0, 4 * sum(sizes) / sizes[0] - 2) if sizes else 0.0


def _kept(regions: Regions, image: NDArray[np.uint8], main: int, flats: Mask, width: float) -> tuple[Mask, Mask]:
    """Which regions stay in the picture, and which of these are of chromosome size."""
    sized = np.zeros(len(regions), dtype=bool)
    sized[main] = True
    large = (regions.areas >= _DIRT_AREA * width**2) & ~flats
    for index in np.flatnonzero(large):
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
    return bool(close and eroded(np.pad(mask, 1), square=True).any() and not _is_flat(values))


def _is_body(regions: Regions, image: NDArray[np.uint8], index: int, width: float) -> bool:
    box, mask = regions.cutout(index)
    return not _is_flat(image[box][mask]) and 2 * len(peeled_sizes(mask)) - 1 >= _DIRT_THICKNESS * width


def _cut(image: NDArray[np.uint8], kept: Mask, level: float) -> int:
    """Longest stretch of one edge that is darker than half of the body."""
    inside = (image < level) & kept
    return max(_longest(line) for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def _longest(line: Mask) -> int:
    stops = np.flatnonzero(~np.concatenate([[False], line, [False]]))
    return int(np.diff(stops).max()) - 1
