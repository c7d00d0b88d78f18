"""The paper of a picture: its level, its noise, uneven light on it, and where foreground begins."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bodies import Mask, connected_regions, eroded
from .robust import median_of, percentiles_of, share_of

Grey = NDArray[np.float32]

WHITE = 255
# Foreground is below this level once the paper is 255.
FOREGROUND = 250

# Pixels through which the surface of uneven paper is fitted.
_SURFACE_SAMPLES = 2500
# Lossy compression leaves ripples of about so many grey levels around a body.
_RINGING = 2.5


@dataclass
class Paper:
    """A picture brought onto bright paper of level 255, its mask of foreground, and what is known of the paper."""

    grey: Grey
    foreground: Mask
    noise: float
    clean: bool


def on_white(values: Grey, hidden: Mask, lossy: bool, notes: list[str]) -> Paper:
    """Bring bright paper to 255: as it is when clean, by its one level, or by a surface through uneven light."""
    seen = values[~hidden] if hidden.any() else values
    if not seen.size:
        return Paper(np.full_like(values, WHITE), np.zeros_like(hidden), 0.0, True)
    if hidden.any():
        # A cut-out may show no paper at all; then the brightest of its rim is the nearest to it.
        brightest = percentiles_of(seen, 99)[0]
        values = np.where(hidden, WHITE if brightest >= 0.6 * WHITE else brightest, values)
    level = commonest(values)
    # A crop cut to its box has little edge of paper, but that is white; uneven light makes none of it exactly white.
    clean_edge = 0.3 if level == WHITE else 0.6
    if 0 < level < WHITE:
        notes.append(f"grey background {level:.0f} stretched to {WHITE}")
        values = values * np.float32(WHITE / level)
        level = float(WHITE)
    edges = edges_of(values)
    # Edges alone: in a faint body neighbours near the level of the paper differ too.
    noise = local_noise(edges[np.newaxis], level)
    if noise == 0 and share_of(np.abs(edges - level) <= 1.5) >= clean_edge:
        values = np.minimum(values, WHITE)
        if lossy:
            return _without_noise(values, np.abs(values - WHITE) <= 3 * _RINGING, lossy)
        return Paper(values, np.rint(values) < FOREGROUND, 0.0, True)
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
    terms = surface_terms(values.shape)
    step = max(1, math.isqrt(values.size // _SURFACE_SAMPLES))
    edges, sampled = edges_of(values), values[::step, ::step].ravel()
    basis = np.stack([term[::step, ::step].ravel() for term in terms])
    solution, reach = edge_fit(terms, edges, edges > 0.5 * level, noise)
    # Bent on the edges first: a vignette's middle lies far from the plane, and the body then is what lies near it.
    if len(solution) == len(terms):
        near = np.abs(sampled - solution @ basis) <= reach
        if np.count_nonzero(near) >= 24:
            solution, reach = trimmed_fit(basis, sampled, near, noise, rounds=3)
    surface = sum_of(solution, terms)
    paper: Mask = np.abs(values - surface) <= reach
    inside = surface[paper] if paper.any() else surface
    if np.ptp(inside) < max(2.0, noise):
        surface = np.full_like(surface, median_of(values[paper]) if paper.any() else level)
    return surface, paper


def surface_terms(shape: tuple[int, ...]) -> list[Grey]:
    """The six terms of a polynomial of degree 2 over a picture, each (H, W): 1, x, y, xy, x squared, y squared."""
    height, width = shape
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    flat = np.ones(shape, dtype=np.float32)
    return [flat, x * flat, y * flat, x * y, x * x * flat, y * y * flat]


def sum_of(factors: Grey, terms: list[Grey]) -> Grey:
    """Surface (H, W) of the first terms, as many as there are factors."""
    surface = np.zeros_like(terms[0])
    for factor, term in zip(factors, terms, strict=False):
        surface += factor * term
    return surface


def edge_fit(terms: list[Grey], edges: Grey, chosen: Mask, noise: float) -> tuple[Grey, float]:
    """Plane through the edges (n,), or all terms where 24 pixels lie near the plane; and the reach of the fit."""
    basis = np.stack([edges_of(term) for term in terms])
    solution, reach = trimmed_fit(basis[:3], edges, chosen, noise, rounds=4)
    near = np.abs(edges - solution @ basis[:3]) <= reach
    return trimmed_fit(basis, edges, near, noise, rounds=2) if np.count_nonzero(near) >= 24 else (solution, reach)


def trimmed_fit(basis: Grey, values: Grey, chosen: Mask, noise: float, rounds: int) -> tuple[Grey, float]:
    """Fit ``values`` (n,) by rows of ``basis`` (k, n), each round without what lies too far from the last fit.

    Returns the coefficients (k,) and the distance within which a pixel counts as paper.
    """
    solution, reach = np.zeros(len(basis), dtype=np.float32), 3.0
    for _ in range(rounds):
        solution = _least_squares(basis, values, chosen)
        rest = np.abs(values - solution @ basis)
        near = rest[chosen]
        spread = 1.4826 * median_of(near) if len(near) else 0.0
        reach = max(3.0, 2.5 * spread, 3 * noise)
        before, chosen = chosen, rest <= reach
        if np.count_nonzero(chosen) < 24 or (chosen == before).all():
            break
    return solution, reach


def _least_squares(basis: Grey, values: Grey, chosen: Mask) -> Grey:
    """Coefficients (k,) that fit the chosen ``values`` (n,) by rows of ``basis`` (k, n); tiny ridge for thin crops."""
    weighted = basis * chosen
    normal = weighted @ basis.T
    normal.flat[:: len(basis) + 1] += 1e-3
    solution: Grey = np.linalg.solve(normal, weighted @ values)
    return solution


def _without_noise(values: Grey, paper: Mask, lossy: bool) -> Paper:
    """Foreground where the paper's own noise ends, judged on means of 3 x 3 pixels when there is any noise."""
    residual = values[paper]
    if len(residual) < 16:
        return Paper(values, np.rint(values) < FOREGROUND, float(WHITE), False)
    # The lower half alone: the upper one is often clipped at white.
    middle_raw, low = percentiles_of(residual, 50, 16)
    noise = middle_raw - low
    if lossy:
        noise = max(noise, _RINGING)
    if noise < 0.8:
        return Paper(values, values < FOREGROUND - 0.5, noise, False)
    smooth = means_of(values)
    inner = smooth[eroded(paper, square=True)]
    if len(inner) < 16:
        inner = smooth[paper]
    middle, low = percentiles_of(inner, 50, 16)
    spread = middle - low
    weak = smooth < min(FOREGROUND, middle - 4 * spread)
    regions = connected_regions(weak)
    strongest = np.full(len(regions) + 1, np.inf)
    np.minimum.at(strongest, regions.labels[weak], smooth[weak])
    sound = (strongest[1:] < middle - 7 * spread) & (regions.areas >= 4)
    body = regions.mask(sound)
    # The mean reaches one pixel too far around a sharp outline: there the pixel itself decides.
    body &= eroded(body, square=True) | (values < middle_raw - 1.5 * noise)
    return Paper(values, body, noise, False)


def means_of(values: Grey) -> Grey:
    """Means of 3 x 3 pixels, edges repeated."""
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    means: Grey = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
    return means


def commonest(values: Grey, edges: float = 1.0) -> float:
    """The grey level most common in the picture, and along its edges by their weight; a peak may be 5 levels wide."""
    levels = np.clip(np.rint(values), 0, WHITE).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256) / levels.size
    if edges:
        line = edges_of(levels)
        counts += edges * np.bincount(line, minlength=256) / line.size
    peak = int(np.argmax(np.convolve(counts, np.ones(5), "same")))
    low = max(peak - 2, 0)
    level = low + int(np.argmax(counts[low : peak + 3]))
    exact = values[levels == level]
    return float(exact[0]) if (exact == exact[0]).all() else median_of(exact)


def edges_of(values: NDArray[Any]) -> NDArray[Any]:
    """Pixels of the four outermost lines in their order around the picture, shape (n,)."""
    return np.concatenate([values[0], values[:, -1], values[-1, ::-1], values[::-1, 0]])


def local_noise(values: Grey, level: float, reach: float = 25.0) -> float:
    """Noise near a grey level from neighbours in a row, which uneven light hardly moves; 0 where most are equal."""
    close = np.abs(values - level) <= reach
    steps = np.abs(values[:, 1:] - values[:, :-1])[close[:, 1:] & close[:, :-1]]
    return median_of(steps) * 1.4826 / math.sqrt(2) if len(steps) else 0.0
