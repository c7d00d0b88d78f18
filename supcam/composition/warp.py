"""Flip, rotate and scale one source at its native pixel scale."""

from dataclasses import dataclass
from math import ceil, cos, radians, sin

import numpy as np
from PIL import Image

from supcam.composition.masks import WHITE, Grey

_PAD = 3  # white rim, so that the interpolation never meets the frame of a crop


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
        return (
            ceil(height * across + width * along) + 2 * _PAD,
            ceil(width * across + height * along) + 2 * _PAD,
        )

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

    def apply(self, image: Grey) -> Grey:
        """Warp a crop (H, W) with bicubic interpolation onto white."""
        height, width = image.shape
        out_height, out_width = self.frame(height, width)
        a, b, c, d, e, f = self.inverse(height, width)
        padded = np.pad(image, _PAD, constant_values=WHITE)
        warped = Image.fromarray(padded).transform(
            (out_width, out_height),
            Image.Transform.AFFINE,
            (a, b, c + _PAD, d, e, f + _PAD),
            resample=Image.Resampling.BICUBIC,
            fillcolor=WHITE,
        )
        return np.asarray(warped)
