"""Flip, rotate and scale one source at its native pixel scale."""

from dataclasses import dataclass
from math import ceil, cos, radians, sin

import numpy as np
from PIL import Image
from scipy import ndimage

from supcam.composition.masks import EIGHT, WHITE, Grey, Mask, Points

PAD = 6  # pixels around a crop for its tail, and so that the interpolation never meets the frame
FINER = 2


@dataclass(frozen=True)
class Warp:
    """Mirror (left-right), then rotate by ``angle`` degrees, then scale by ``scale``, about the centre."""

    mirror: bool
    angle: float
    scale: float

    @classmethod
    def draw(cls, rng: np.random.Generator, scale: tuple[float, float]) -> "Warp":
        """A random warp: angle uniform in 0 to 360 degrees, scale uniform in the range given."""
        low, high = scale
        mirror, turn, size = rng.random(3)
        return cls(bool(mirror < 0.5), float(turn * 360.0), float(low + (high - low) * size))

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that hold a warped image of ``height`` x ``width`` pixels and its white rim."""
        turn = radians(self.angle)
        across, along = abs(cos(turn)) * self.scale, abs(sin(turn)) * self.scale
        return ceil(height * across + width * along) + 2 * PAD, ceil(width * across + height * along) + 2 * PAD

    def inverse(self, height: int, width: int) -> tuple[float, float, float, float, float, float]:
        """Pillow's affine data: from output pixel centres (x, y) back to those of the source (not padded)."""
        out_height, out_width = self.frame(height, width)
        turn = radians(self.angle)
        a, b = cos(turn) / self.scale, sin(turn) / self.scale
        flip = -1.0 if self.mirror else 1.0
        row_x = (flip * a, flip * b)
        row_y = (-b, a)
        centre_x, centre_y = out_width / 2, out_height / 2
        shift_x = width / 2 - row_x[0] * centre_x - row_x[1] * centre_y
        shift_y = height / 2 - row_y[0] * centre_x - row_y[1] * centre_y
        return (*row_x, shift_x, *row_y, shift_y)

    def points(self, points: Points, shape: tuple[int, int]) -> Points:
        """Where pixels (K, 2), row and column, of a source of ``shape`` lie in its warped image."""
        a, b, c, d, e, f = self.inverse(*shape)
        y, x = points.T + 0.5 - np.array([[f], [c]])
        determinant = a * e - b * d
        warped = np.column_stack(((a * y - d * x) / determinant, (e * x - b * y) / determinant))
        return np.asarray(np.floor(warped), dtype=np.int64)

    def apply(self, source: "Sheet") -> tuple[Grey, Grey]:
        """Warp a sheet: the crop (H, W) on white with an edge as sharp as it was, and the same with its tail."""
        a, b, c, d, e, f = self.inverse(*source.shape)
        data = (a, b, c + PAD, d, e, f + PAD)
        out_height, out_width = self.frame(*source.shape)
        size = (out_width, out_height)
        fine = tuple(FINER * value for value in data)
        grey = source.grey.transform(size, Image.Transform.AFFINE, fine, Image.Resampling.BICUBIC, fillcolor=WHITE)
        support = source.support.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        tail = np.maximum(np.asarray(grey), source.darkest)
        return np.where(np.asarray(support) > 127, tail, np.uint8(WHITE)), tail


@dataclass(frozen=True)
class Sheet:
    """A source ready to be warped: its grey values, the faint tail that its crop cut off, and where it is not white.

    Real haloes end in a step, because segmentation or background correction cut them. Interpolated against white the
    step would smear into a fringe that no real crop has, so grey values and support are interpolated apart. Beyond
    the step optical density goes on falling by the factor per pixel that the crop's own edge shows; this tail darkens
    neighbours it falls on and is never drawn on white. Both images are ``PAD`` pixels larger than ``shape`` (H, W) on
    each side. Grey values are kept at twice the resolution, so that turning them neither blurs nor sharpens.
    """

    grey: Image.Image
    support: Image.Image
    shape: tuple[int, int]
    darkest: np.uint8

    @classmethod
    def of(cls, image: Grey) -> "Sheet":
        """The sheet of a crop (H, W) whose background is 255."""
        padded = np.pad(image, PAD, constant_values=WHITE)
        white = padded == WHITE
        distance, nearest = ndimage.distance_transform_edt(white, return_indices=True)
        density = -np.log(np.maximum(padded[nearest[0], nearest[1]], 1) / WHITE)
        density *= _edge_fall(padded, ~white) ** distance
        grey = np.where(white, np.round(WHITE * np.exp(-density)), padded).astype(np.uint8)
        support = np.where(white, 0, 255).astype(np.uint8)
        height, width = padded.shape
        finer = Image.fromarray(grey).resize((FINER * width, FINER * height), Image.Resampling.LANCZOS)
        return cls(finer, Image.fromarray(support), (image.shape[0], image.shape[1]), image.min())


def _edge_fall(image: Grey, support: Mask) -> float:
    """Density of the outermost pixels of the support as a part of that one pixel further in (medians), 0.1 to 0.8."""
    inner = ndimage.binary_erosion(support, EIGHT)
    outer_ring, inner_ring = image[support & ~inner], image[inner & ~ndimage.binary_erosion(inner, EIGHT)]
    if outer_ring.size == 0 or inner_ring.size == 0:
        return 0.1
    outside, inside = (-np.log(max(float(np.median(ring)), 1.0) / WHITE) for ring in (outer_ring, inner_ring))
    return float(np.clip(outside / max(inside, 1e-6), 0.1, 0.8))
