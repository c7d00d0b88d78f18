"""One drawn chromosome: shape, stain and camera put together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import erf

from supcam.composition.masks import WHITE, Grey, Mask, bounding_box
from supcam.errors import SettingError
from supcam.settings import LookRanges
from supcam.synthetic.camera import photograph
from supcam.synthetic.look import Look
from supcam.synthetic.shape import KINDS, Shape, draw_shape
from supcam.synthetic.stain import draw_stain

_TRIES = 20  # poses of one chromosome
_LEAST_KEPT = 0.5  # of its outline that the cut must leave: pale gaps can part what is cut at a dark level
_EDGE = 0.5  # standard deviation of the clean edge, pixels: no more than the raster needs


@dataclass(frozen=True)
class Drawing:
    """One drawn chromosome: the crop, and the masks of its formula before grain and rounding, all (H, W).

    ``body`` is the outline (half of the edge's density), ``halo`` where the clean drawing is darker than 250.
    """

    image: Grey
    body: Mask
    halo: Mask


def draw_chromosome(kind: int, look: Look, rng: np.random.Generator) -> Drawing:
    """Draw chromosome ``kind`` (0-23) of a case in a random pose, on a tight crop with white background 255.

    Raises:
        SettingError: for a look so pale that its cut leaves nothing.
    """
    for _ in range(_TRIES):
        shape = draw_shape(kind, look, rng)
        stain, body = _laid_down(shape, draw_stain(shape, look, rng), look, rng)
        image, halo = photograph(stain, body, look, rng)
        if np.count_nonzero(image < WHITE) >= _LEAST_KEPT * np.count_nonzero(body):
            box = _tight((image < WHITE) | halo)
            return Drawing(image[box], body[box], halo[box])
    raise SettingError(
        "compose.drawn.ranges.cut_level",
        round(look.cut_level, 1),
        f"a level that a chromosome of density {look.density:.2f}, blur {look.blur:.2f} and width {look.width:.1f} is "
        "darker than",
        "Raise it, or raise compose.drawn.ranges.density.",
    )


def draw_look(ranges: LookRanges, seed: int, number: int, count: int, *again: int) -> list[Drawing]:
    """``count`` chromosomes of look ``number``, each of a random kind; ``again`` draws another look in its place.

    Raises:
        SettingError: as :func:`draw_chromosome`.
    """
    look = Look.draw(ranges, np.random.default_rng((seed, number, *again)))
    rng = np.random.default_rng((seed, number, 1, *again))
    return [draw_chromosome(int(rng.integers(len(KINDS))), look, rng) for _ in range(count)]


def _laid_down(
    shape: Shape, stain: NDArray[np.float64], look: Look, rng: np.random.Generator
) -> tuple[NDArray[np.float64], Mask]:
    """Clean stain (H, W) of both chromatids, and the outline."""
    margin = float(shape.radius.max()) + 6.0 + 4.0 * look.blur
    low, high = shape.chromatids.min(axis=(0, 1)), shape.chromatids.max(axis=(0, 1))
    columns, rows = np.ceil(high - low + 2 * margin).astype(int)
    y, x = np.mgrid[:rows, :columns]
    pixels = np.column_stack((x.ravel(), y.ravel()))
    layers, distances, body = [], [], np.zeros((rows, columns), dtype=bool)
    limit = float(shape.radius.max()) + 3.0
    for points, radii, profile in zip(shape.chromatids - low + margin, shape.radius, stain, strict=True):
        distance, nearest = cKDTree(points).query(pixels, distance_upper_bound=limit)
        distance = np.minimum(distance, limit)
        nearest = np.minimum(nearest, len(points) - 1)
        dark = profile[np.round(nearest / (len(points) - 1) * (profile.size - 1)).astype(int)]
        radius = radii[nearest] * (1.0 - look.unevenness * (1.0 - np.minimum(dark, 1.0)))  # thinner at pale bands
        distances.append(distance)
        cover = 0.5 * (1.0 - erf((distance - radius) / (np.sqrt(2.0) * _EDGE)))
        thick = np.sqrt(np.maximum(1.0 - (distance / (radius + 1.0)) ** 2, 0.0))
        layers.append((cover * dark * (1.0 - look.roundness + look.roundness * thick)).reshape(rows, columns))
        body |= (distance <= radius).reshape(rows, columns)
    both = np.maximum(*layers) + 0.35 * np.minimum(*layers)
    between = (distances[0] - distances[1]) / max(1.15 * look.groove * float(np.median(shape.radius)), 0.5)
    fades = np.exp(-(between**2)).reshape(rows, columns) * _patches(both.shape, 0.5 * look.width, rng).clip(0.0, 1.0)
    both = both * (1.0 - look.seam * fades)
    both = both * np.exp(look.mottle * (_patches(both.shape, rng.uniform(0.1, 0.25) * look.width, rng) - 0.5))
    return both, ndimage.binary_fill_holes(body) & body


def _patches(shape: tuple[int, ...], size: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth random patches (H, W) of so many pixels: mean 0.5, deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), size)
    patches: NDArray[np.float64] = 0.5 + noise / max(float(noise.std()), 1e-6)
    return patches


def _tight(mask: Mask) -> tuple[slice, slice]:
    """The box of a mask with a pixel around it."""
    rows, columns = bounding_box(mask)
    return slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1)
