"""What stands around a body: frames, dead lines, dark paper, and the filling around a cut-out."""

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .bodies import Mask, connected_regions, dilated, is_flat
from .paper import WHITE, Grey, commonest, edge_fit, edges_of, local_noise, means_of, sum_of, surface_terms
from .robust import median_of, percentiles_of, share_of

_Number = TypeVar("_Number", bound=np.generic)

INVERTED_NOTE = "dark background inverted"
CUT_OUT_NOTE = "surroundings of a cut-out turned white"
SOFT_NOTE = "soft outline of a cut-out rebuilt"

# A line of a frame has one level in at least this share of it.
_MAX_FRAME, _EVEN_SHARE = 24, 0.95
# A filling has one level in at least this share of it, and ends in a step of at least so many grey levels; uneven
# paper has many levels and goes on smoothly.
_FILL_SHARE, _FILL_STEP, _SEAM_STEP = 0.75, 8, 12
# A body cut out softly darkens inwards by more than a share of its rise at the outline; hardly any of it is brighter.
_FADING, _BRIGHT_RIM = 0.05, 0.76
# More than this share of a soft outline is nearer to a dark filling than anything within is.
_MIXED = 0.05
# So many regions, the largest, are looked at for drawings.
_MOST_DRAWINGS = 16
# Regions of fewer pixels are noise, of which one level says nothing.
_SPECK = 4
# Around a body cut out of dark paper and set on white, the rim is darker than this.
_DARK_RIM = 110


def is_plain(image: NDArray[np.uint8] | Grey) -> bool:
    """Whether a picture (H, W) is surely a dark body on clean white paper, without a frame or dead line.

    This spares most crops the closer look of the other functions here, which would find nothing.
    """
    white = image >= WHITE - 2
    edges = edges_of(image)
    share, edge_share = share_of(image == WHITE), share_of(edges == WHITE)
    if share < 0.3 or share + edge_share <= 1 or local_noise(edges[np.newaxis].astype(np.float32), WHITE) > 0:
        return False
    if any(map(_may_be_framed, _sides(WHITE - image))) or (~white).all(axis=1).any() or (~white).all(axis=0).any():
        return False
    rim = image[dilated(dilated(white)) & ~white]
    return bool(4 * np.count_nonzero(rim <= _DARK_RIM) < len(rim))


def frame_sides(values: Grey) -> tuple[int, int, int, int]:
    """Lines of a frame at top, bottom, left and right: each of one level, with a step to the line inside of it."""
    paper = commonest(values, edges=0)
    from_paper = _sides(np.abs(values - paper))
    top, bottom, left, right = (
        _frame_lines(lines, paper) if _may_be_framed(distance) else 0
        for lines, distance in zip(_sides(values), from_paper, strict=True)
    )
    return top, bottom, left, right


def _sides(values: NDArray[_Number]) -> tuple[NDArray[_Number], ...]:
    """The first lines from the top, bottom, left and right, each (n, L), outermost first."""
    count = min(_MAX_FRAME, min(values.shape) // 4) + 1
    return values[:count], values[::-1][:count], values.T[:count], values.T[::-1][:count]


def _may_be_framed(from_paper: NDArray[Any]) -> bool:
    """Whether one of the lines (n, L) of distances from the paper's level has hardly any paper between its ends.

    Lines with both paper and body are uneven, and end the search as in :func:`_frame_lines`.
    """
    within = ~_ends(from_paper.shape)
    paper = ((from_paper <= 2) & within).mean(axis=1) > 1 - _EVEN_SHARE
    far = ((from_paper > 8) & within).mean(axis=1) > 1 - _EVEN_SHARE
    before = ~np.logical_or.accumulate(paper & far)
    return bool(np.any(before & ~paper))


@lru_cache(maxsize=64)
def _ends(shape: tuple[int, ...]) -> Mask:
    """Where the lines of a side (n, L) lie in the frames of the sides next to it."""
    from_end = np.minimum(np.arange(shape[1]), np.arange(shape[1])[::-1])
    return from_end < np.arange(shape[0])[:, np.newaxis]


def _frame_lines(lines: Grey, paper: float) -> int:
    """Number of the first lines (n, L) that are frame, none of which has the level of the paper.

    The ends of a line lie in the frames of the sides next to it, which may have other levels: these do not count.
    """
    levels = np.median(lines, axis=1)[:, np.newaxis]
    with np.errstate(invalid="ignore"):
        even = (np.abs(lines - levels) <= 4) | _ends(lines.shape)
        step = (np.abs(lines[1:] - levels[:-1]) > 6).mean(axis=1) >= 0.6
        step &= np.abs(levels[:-1, 0] - paper) > 6
    all_even = even.mean(axis=1) >= _EVEN_SHARE
    first_uneven = int(np.argmin(all_even)) if not all_even.all() else len(all_even)
    steps = np.flatnonzero(step[:first_uneven])
    return int(steps[-1]) + 1 if len(steps) else 0


def without_dead_lines(values: Grey, notes: list[str]) -> Grey:
    """Rows and columns to which a broken camera gave one value, at most two side by side, filled in across them."""
    return _without_dead_rows(_without_dead_rows(values, notes).T, notes).T


def _without_dead_rows(values: Grey, notes: list[str]) -> Grey:
    even = np.flatnonzero(np.ptp(values, axis=1) <= 1)
    if not len(even) or len(even) == len(values):
        return values
    dead = even[np.abs(values[even, 0] - commonest(values, edges=0)) > 6]
    for group in np.split(dead, np.flatnonzero(np.diff(dead) > 1) + 1):
        if not 1 <= len(group) <= 2 or group[0] == 0 or group[-1] == len(values) - 1:
            continue
        before, after = values[group[0] - 1], values[group[-1] + 1]
        share = np.arange(1, len(group) + 1, dtype=np.float32)[:, np.newaxis] / (len(group) + 1)
        values = values.copy()
        values[group] = before + (after - before) * share
        notes.append("dead line filled in")
    return values


def upright(values: Grey, hidden: Mask, notes: list[str]) -> tuple[Grey, Mask]:
    """Turn dark paper bright, and find what is not part of the picture but filled in around a cut-out.

    The rim of a body is nearer to the paper than its inside is, whatever stands around a cut-out. Where the
    surroundings have many levels they are paper, and the body is what differs from them.
    """
    outside, level = hidden, 0.0
    if not hidden.any():
        level = commonest(values)
        outside = _around(np.abs(values - level) <= max(2.0, 3 * local_noise(values, level)))
        # Clean paper, and what a program filled in, have one level.
        if share_of(np.abs(values[outside] - level) <= 1) < _FILL_SHARE:
            return (values if _darker_than_paper(values, level) else _inverted(values, notes)), hidden
        outside = outside | _drawings(values, ~outside)
    depths = _depths(outside)
    rim, inside = values[(depths > 0) & (depths <= 2) & ~hidden], values[depths > 3]
    if len(inside) < 8:
        inside = values[(depths > 1) & ~hidden]
    if not len(rim) or not len(inside):
        return (values if level >= 128 else WHITE - values), hidden
    rim_level, inside_level = median_of(rim), median_of(inside)
    if not hidden.any() and abs(rim_level - level) > 8 and share_of(np.abs(inside - level) <= 2) > 0.5:
        # A line drawn around the body: within it the paper goes on, so the surroundings are not those of a cut-out.
        return (values if _darker_than_paper(values, level) else _inverted(values, notes)), hidden
    # A body with a pale inside on bright paper: nothing of it is brighter than the paper.
    pale_inside = 128 <= level >= rim_level > _DARK_RIM and percentiles_of(inside, 95)[0] <= level + 4
    bright = rim_level >= inside_level or pale_inside
    if not bright and not hidden.any() and rim_level > level:
        bright = _fades_inwards(values, depths, level)
    if not bright:
        values, level, rim_level = _inverted(values, notes), WHITE - level, WHITE - rim_level
    if hidden.any():
        notes.append(CUT_OUT_NOTE)
        return values, hidden | _fill(values, outside, rim_level)
    rings = [median_of(ring) for depth in range(1, 5) if len(ring := values[depths == depth]) >= 8]
    if not rings:  # too few pixels to tell a filling
        return values, hidden
    brightest = int(np.argmax(rings))
    # Sharpening leaves a bright seam on bright paper, which begins gently; a filling ends at once.
    is_filled = rings[0] - level >= _SEAM_STEP if level >= 128 else rings[brightest] - level >= _FILL_STEP
    if is_filled:
        hidden = _fill(values, outside, rim_level)
        notes.append(CUT_OUT_NOTE)
        outline = values[depths == 1]
        darkest = percentiles_of(values[depths > 1], 2)[0] if (depths > 1).any() else level
        is_mixed = darkest - level > _FILL_STEP and share_of(outline < (level + darkest) / 2) > _MIXED
        if brightest or is_mixed:
            values = _unmixed(values, hidden, level, max(brightest, 1))
            notes.append(SOFT_NOTE)
    return values, hidden


def _drawings(values: Grey, marked: Mask) -> Mask:
    """Bars, letters and the like among the regions of a mask, unless nothing else is there."""
    regions = connected_regions(marked)
    flat = regions.areas < _SPECK
    for index in np.argsort(-regions.areas, kind="stable")[: min(_MOST_DRAWINGS, np.count_nonzero(~flat))]:
        box, mask = regions.cutout(int(index))
        flat[index] = is_flat(values[box][mask])
    return regions.mask(flat) if not flat.all() else np.zeros_like(marked)


def _depths(outside: Mask, count: int = 9) -> NDArray[np.int8]:
    """Distance of each pixel from the outside in steps to all eight neighbours, at most ``count`` + 1."""
    depths = np.zeros(outside.shape, dtype=np.int8)
    reached = outside
    for _ in range(count + 1):
        depths += ~reached
        reached = dilated(reached)
    return depths


def _fades_inwards(values: Grey, depths: NDArray[np.int8], level: float) -> bool:
    """Whether a body is darkest at its outline only because it was cut out softly: behind that it darkens inwards.

    Near its outline it is then about as bright as anywhere, and the brightest quarter of its pixels lies nearer to the
    outline than the darkest quarter does.
    """
    rings = [median_of(ring) for depth in range(1, 8) if len(ring := values[depths == depth]) >= 8]
    if not rings:
        return False
    peak = int(np.argmax(rings[:4]))
    rise = rings[peak] - level
    behind = rings[peak + 1 : peak + 4]
    top = percentiles_of(values[depths > 0], 98)[0] - level
    if not behind or rings[peak] - min(behind) <= _FADING * rise or rise < _BRIGHT_RIM * top:
        return False
    soft = next(depth for depth, ring in enumerate(rings) if ring - level >= 0.9 * rise)
    within = depths > (soft if soft <= 2 else 1)
    order = np.argsort(values[within], kind="stable")
    quarter = max(1, len(order) // 4)
    ordered = depths[within][order]
    nearer = float(ordered[:quarter].mean() - ordered[-quarter:].mean())
    return nearer > _FADING * float(depths[depths > 0].mean())


def _unmixed(values: Grey, hidden: Mask, level: float, rings: int) -> Grey:
    """Take the filling out of the ``rings`` of pixels at a soft cut-out's outline, as if white had stood around it.

    The share of the body in such a pixel follows from its level between that of the filling and the body beside it.
    """
    depths = _depths(hidden, rings)
    known = depths > rings
    body = np.where(known, values, 0).astype(np.float32)
    out = values.copy()
    for depth in range(rings, 0, -1):
        weight = means_of(known.astype(np.float32))
        near = means_of(body) / np.maximum(weight, 1e-6)
        ring = (depths == depth) & (weight > 0)
        share = np.clip((values - level) / np.maximum(near - level, 1), 0, 1)
        out[ring] = (np.maximum(values, level) + (1 - share) * (WHITE - level))[ring]
        body[ring] = near[ring]
        known = known | ring
    out[(depths > 0) & ~known] = WHITE  # ripples beside the outline
    return np.minimum(out, WHITE)


def _inverted(values: Grey, notes: list[str]) -> Grey:
    notes.append(INVERTED_NOTE)
    return WHITE - values


def _darker_than_paper(values: Grey, level: float) -> bool:
    """Whether what differs from the surface through the edges is darker than it.

    The surface is a plane unless most of the edges bend away from it, as under a vignette.
    """
    edges = edges_of(values)
    terms = surface_terms(values.shape)
    solution, reach = edge_fit(terms, edges, edges >= 0, 0.0)
    rest = values - sum_of(solution, terms)
    body = float(rest[np.abs(rest) > reach].sum())
    return body < 0 if body else level >= 128


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
        holes[index] = median_of(around) > (rim_level + level) / 2
    return outside | regions.mask(holes)
