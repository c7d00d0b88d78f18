"""The shape of one chromosome: a centre line, and two chromatids beside it that lie closed or stand open."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from supcam.synthetic.look import Look

Curve: TypeAlias = NDArray[np.float64]

# Relative length (% of the haploid autosomes) and centromere position of chromosomes 1-22, X, Y: the standard human
# idiogram (ISCN), rounded.
KINDS: tuple[tuple[float, float], ...] = (
    (8.4, 0.48), (8.0, 0.39), (6.8, 0.47), (6.3, 0.29), (6.1, 0.29), (5.9, 0.39), (5.4, 0.39), (4.9, 0.34),
    (4.8, 0.35), (4.6, 0.34), (4.6, 0.40), (4.7, 0.30), (3.7, 0.17), (3.6, 0.19), (3.5, 0.20), (3.3, 0.41),
    (3.2, 0.34), (2.9, 0.31), (2.7, 0.47), (2.6, 0.45), (1.9, 0.31), (2.0, 0.30), (5.1, 0.40), (2.2, 0.27),
)  # fmt: skip
SATELLITED = (12, 13, 14, 20, 21)  # the acrocentric ones: 13, 14, 15, 21, 22
_STEP = 0.5  # pixels between points of a centre line
_MEAN_SHARE = 4.35
_SHORT_ARM = 3.5  # widths


@dataclass(frozen=True)
class Shape:
    """One chromosome in a random pose.

    Attributes:
        kind: Chromosome 1-22, X, Y as 0-23.
        length: Of the centre line, pixels.
        centromere: Place of the centromere along it, 0 to 1.
        chromatids: (2, N, 2) points (x, y) of both centre lines.
        radius: (2, N) half width of each chromatid at each point, pixels.
        stalk: Whether the short arm ends in a satellite on a pale stalk.
    """

    kind: int
    length: float
    centromere: float
    chromatids: Curve
    radius: Curve
    stalk: bool


def draw_shape(kind: int, look: Look, rng: np.random.Generator) -> Shape:
    """A pose of chromosome ``kind`` (0-23)."""
    share, centromere = KINDS[kind]
    width = look.width * rng.uniform(0.9, 1.1)
    length = max(look.slenderness * share / _MEAN_SHARE * width * rng.uniform(0.85, 1.15), 1.15 * width)
    centromere = float(np.clip(centromere + rng.normal(0.0, 0.03), 0.08, 0.5))
    count = max(int(length / _STEP), 12)
    s = np.linspace(0.0, 1.0, count)
    line, turn = _centre_line(s, length, width, look, rng)
    apart = np.abs(s - centromere) * length / width  # from the centromere, in widths
    waist = 1.0 - look.waist * np.exp(-((apart / 0.35) ** 2)) * rng.uniform(0.5, 1.0)
    # Closed chromatids of half width r lie o to either side of the middle: together they are as wide as the chromosome.
    radius = width / 2.0 / (1.0 + look.groove) * waist
    offset = look.groove * radius + _opening(s, centromere, apart, look, rng) * width
    normal = np.column_stack((-np.sin(turn), np.cos(turn)))
    ends = np.minimum(s, 1.0 - s) * length / width
    radius = radius * (1.0 - 0.12 * np.exp(-ends * 4.0))
    chromatids = np.stack((line + normal * offset[:, None], line - normal * offset[:, None]))
    if kind in SATELLITED:  # their short arms are often thinner
        radius = radius * np.where(s < centromere, rng.uniform(0.65, 1.0), 1.0)
    radius = radius * np.exp(look.unevenness * rippled(2, length / width, count, rng)).clip(0.5, 1.6)
    stalk = kind in SATELLITED and bool(rng.random() < 1.5 * look.pale_gaps)
    return Shape(kind, length, centromere, chromatids, radius, stalk)


def rippled(rows: int, widths: float, count: int, rng: np.random.Generator) -> Curve:
    """Smooth random curves (rows, count) of deviation 1 along a chromosome of so many widths, half a width apart."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal((rows, count)), 0.35 * count / widths, mode="nearest")
    ripples: Curve = noise / np.maximum(noise.std(axis=1, keepdims=True), 1e-6)
    return ripples


def _centre_line(s: Curve, length: float, width: float, look: Look, rng: np.random.Generator) -> tuple[Curve, Curve]:
    """Points (N, 2) of a curving line and its direction (N,) in radians; long and thin ones bend more."""
    reach = min(length / width / 7.0, 1.6)
    arc, wave, phase = rng.normal(size=3)
    turn = reach * look.bend * (0.9 * arc * s + 0.35 * wave * np.sin(2 * np.pi * (s + phase)))
    for _ in range(int(rng.poisson(look.kinks * min(reach, 1.0)))):
        place, angle = rng.uniform(0.15, 0.85), rng.normal(0.0, 1.1)
        turn += angle / (1.0 + np.exp(-(s - place) * rng.uniform(1.5, 6.0) * length / width))
    if rng.random() < 0.04 and length > 5.0 * width:  # a hairpin or a loop: it may touch itself and stays one
        place = rng.uniform(0.3, 0.7)
        turn += rng.choice((-1.0, 1.0)) * rng.uniform(2.4, 4.2) / (1.0 + np.exp(-(s - place) * length / width * 0.9))
    turn += rng.uniform(0.0, 2 * np.pi)
    step = length / len(s)
    return np.cumsum(np.column_stack((np.cos(turn), np.sin(turn))) * step, axis=0), turn


def _opening(s: Curve, centromere: float, apart: Curve, look: Look, rng: np.random.Generator) -> Curve:
    """How far each chromatid leaves the middle (N,), in widths: nothing, along part of an arm, or wide open arms."""
    opening = np.zeros_like(s)
    slim = float(apart.max()) / _SHORT_ARM  # chromatids of short thick chromosomes open, those of long thin ones hardly
    if rng.random() * max(slim, 1.0) > look.open_share:
        return opening
    both = rng.random() < 0.7
    slope, start = rng.uniform(0.1, 1.0) * look.opening, rng.choice((0.0, 0.25, 0.5), p=(0.5, 0.3, 0.2))
    farthest = rng.uniform(0.3, 1.3)
    arms = (s < centromere, s >= centromere)
    chosen = (0, 1) if both else (int(rng.random() < 0.6),)
    for arm in chosen:
        inside = arms[arm]
        reach = float(apart[inside].max(initial=0.0))
        beyond = np.maximum(apart - start * reach, 0.0) * slope * rng.uniform(0.7, 1.3)
        bowed = farthest * np.tanh(beyond / farthest)  # open arms curve back instead of standing straight out
        opening += np.where(inside, bowed, 0.0)
    return opening
