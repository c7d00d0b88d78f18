"""How dark a chromosome is along its length: bands, pale gaps, dark spots, satellites on pale stalks."""

import numpy as np
from numpy.typing import NDArray

from supcam.synthetic.look import Look
from supcam.synthetic.shape import KINDS, Shape, rippled

PLACES = 400  # along a chromosome
LEAST = 0.05  # no gap inside a chromosome is paler, as a part of its dark bands


def draw_stain(shape: Shape, look: Look, rng: np.random.Generator) -> NDArray[np.float64]:
    """Darkness of both chromatids (2, PLACES), 1 in dark bands, up to 2.5 in spots of heterochromatin."""
    s = np.linspace(0.0, 1.0, PLACES)
    per_width = shape.length / (2.0 * float(np.median(shape.radius)))
    stain = _bands(s, shape, look, rng) if look.banded else _plain(s, look, rng)
    for end in (s, 1.0 - s):
        if rng.random() < look.pale_tips:
            reach = rng.uniform(0.2, 0.8) / per_width
            stain = stain * (1.0 - rng.uniform(0.4, 0.95) * np.exp(-((end / reach) ** 2)))
    stain = _sisters(s, stain, per_width, look, rng) if look.banded else np.tile(stain, (2, 1))
    if rng.random() < look.spots:
        place = shape.centromere + rng.normal(0.0, 0.02) if rng.random() < 0.75 else rng.random()
        spot = np.exp(-(((s - place) * per_width / rng.uniform(0.35, 0.9)) ** 2))
        stain = stain * (1.0 + rng.uniform(0.4, 1.5) * spot)
    if rng.random() < look.pale_gaps:
        stain = stain * _gap(s, rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.35) / per_width, rng.uniform(0.6, 0.95))
    if shape.stalk:
        stain = stain * _gap(s, shape.centromere * 0.55, 0.2 / per_width, rng.uniform(0.5, 0.95))
    return np.maximum(stain, LEAST)


def _sisters(
    s: NDArray[np.float64], stain: NDArray[np.float64], per_width: float, look: Look, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The stain of both chromatids (2, PLACES): each has its bands at slightly other places and strengths."""
    moved = s + rng.normal(0.0, 0.12 / per_width) * np.array([[0.0], [1.0]])
    moved = moved + 0.5 * look.sisters / per_width * rippled(2, per_width, PLACES, rng)
    stronger = np.exp(look.sisters * rippled(2, per_width, PLACES, rng))
    sisters: NDArray[np.float64] = np.minimum(np.interp(moved, s, stain) * stronger, 1.3)
    return sisters


def _gap(s: NDArray[np.float64], place: float, half: float, depth: float) -> NDArray[np.float64]:
    gap: NDArray[np.float64] = 1.0 - depth * np.exp(-(((s - place) / max(half, 1e-3)) ** 4))
    return gap


def _bands(s: NDArray[np.float64], shape: Shape, look: Look, rng: np.random.Generator) -> NDArray[np.float64]:
    """Dark bands of random places, widths and strengths on a light ground."""
    count = max(2, round((2 + KINDS[shape.kind][0] * 1.15) * rng.uniform(0.7, 1.3)))
    places = (np.arange(count) + rng.uniform(0.15, 0.85, count)) / count
    half = rng.uniform(0.16, 0.42, count) / count
    strength = rng.choice([0.3, 0.6, 1.0], count, p=[0.2, 0.35, 0.45])
    profile = (strength * np.exp(-(((s[:, None] - places) / half) ** 4))).max(axis=1)
    ground = look.light_bands * (
        1.0 + 0.3 * rng.normal() * np.sin(2 * np.pi * (s * rng.uniform(0.5, 2) + rng.random()))
    )
    ground = np.clip(ground, LEAST, 1.0)
    bands: NDArray[np.float64] = ground + (1.0 - ground) * profile
    return bands


def _plain(s: NDArray[np.float64], look: Look, rng: np.random.Generator) -> NDArray[np.float64]:
    """Nearly even, with slow swells and paler ends."""
    swell = np.zeros_like(s)
    for cycles in (0.7, 1.5, 3.0):
        swell += rng.normal(0.0, 0.5) * np.sin(2 * np.pi * (cycles * s + rng.random()))
    plain: NDArray[np.float64] = np.exp(0.35 * (1.0 - look.light_bands) * swell)
    return np.minimum(plain, 1.6)
