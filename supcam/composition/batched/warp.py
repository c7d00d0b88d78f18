"""Flip, rotate and scale many sources at once; pixel for pixel what Pillow does to one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from supcam.composition.masks import WHITE, Grey
from supcam.composition.warp import FINER, PAD, Sheet


@dataclass(frozen=True)
class Poses:
    """Warps as ``supcam.composition.warp.Warp`` holds one: mirror (N,) bool, angle (N,) degrees, scale (N,)."""

    mirror: Tensor
    angle: Tensor
    scale: Tensor

    SLOTS = 3

    @classmethod
    def draw(cls, u: Tensor, scale: tuple[float, float]) -> "Poses":
        """Random warps from uniform numbers (N, 3)."""
        low, high = scale
        return cls(u[:, 0] < 0.5, u[:, 1] * 360.0, low + (high - low) * u[:, 2])

    def take(self, rows: Tensor) -> "Poses":
        """The warps of these rows."""
        return Poses(self.mirror[rows], self.angle[rows], self.scale[rows])

    def frames(self, shapes: Tensor) -> Tensor:
        """(N, 2) int64 height and width that hold warped images of ``shapes`` (N, 2), with their white rim."""
        cos, sin = self._turned()
        across, along = cos.abs() * self.scale, sin.abs() * self.scale
        height, width = shapes.unbind(1)
        sides = torch.stack((height * across + width * along, width * across + height * along), 1)
        return sides.ceil().long() + 2 * PAD

    def inverse(self, shapes: Tensor) -> Tensor:
        """Pillow's affine data (N, 6): from output pixel centres (x, y) back to those of the sources (not padded)."""
        cos, sin = self._turned()
        a, b = cos / self.scale, sin / self.scale
        flip = torch.where(self.mirror, -1.0, 1.0)
        x, y, back_x, back_y = flip * a, flip * b, -b, a
        centre_y, centre_x = (self.frames(shapes) / 2).unbind(1)
        height, width = shapes.unbind(1)
        shift_x = width / 2 - x * centre_x - y * centre_y
        shift_y = height / 2 - back_x * centre_x - back_y * centre_y
        return torch.stack((x, y, shift_x, back_x, back_y, shift_y), 1)

    @staticmethod
    def points(points: Tensor, data: Tensor) -> Tensor:
        """Where pixels (N, K, 2) of sources lie in their warped images, given their affine ``data`` (N, 6)."""
        a, b, c, d, e, f = data[:, :, None].unbind(1)
        y, x = points[:, :, 0] + 0.5 - f, points[:, :, 1] + 0.5 - c
        whole = a * e - b * d
        return torch.stack(((a * y - d * x) / whole, (e * x - b * y) / whole), 2).floor().long()

    def _turned(self) -> tuple[Tensor, Tensor]:
        turn = torch.deg2rad(self.angle)
        return torch.cos(turn), torch.sin(turn)


class Sheets:
    """Sheets of many sources, their pixels in one row on the device.

    Attributes:
        shapes: (N, 2) int64 height and width of each source.
    """

    def __init__(self, sheets: Sequence[Sheet], device: torch.device) -> None:
        self._grey = _Pixels([np.asarray(sheet.grey) for sheet in sheets], device)
        self._support = _Pixels([np.asarray(sheet.support) for sheet in sheets], device)
        self._darkest = torch.tensor([int(sheet.darkest) for sheet in sheets], dtype=torch.uint8, device=device)
        self.shapes = torch.tensor([sheet.shape for sheet in sheets], device=device).reshape(-1, 2)

    def warped(self, rows: Tensor, data: Tensor, frames: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Sheets ``rows`` (N,) by affine ``data`` (N, 6) on squares of ``side``: crops on white, and with their tail.

        Both (N, side, side) uint8. What lies outside of ``frames`` (N, 2) is white.
        """
        padded = data + torch.tensor([0.0, 0.0, PAD, 0.0, 0.0, PAD], device=data.device)
        grey = self._grey.cubic(rows, FINER * padded, side)
        support = self._support.linear(rows, padded, side) > 127
        step = torch.arange(side, device=rows.device)
        inside = (step < frames[:, :1])[:, :, None] & (step < frames[:, 1:])[:, None, :]
        tail = torch.maximum(grey, self._darkest[rows, None, None]).where(inside, WHITE)
        return tail.where(support, WHITE), tail


class _Pixels:
    """Grey images of any shape, read at any point with the arithmetic of Pillow's ``Geometry.c``."""

    def __init__(self, images: Sequence[Grey], device: torch.device) -> None:
        starts = np.cumsum([0, *(image.size for image in images)])[:-1]
        self._flat = torch.from_numpy(np.concatenate([image.ravel() for image in images])).to(device)
        self._starts = torch.from_numpy(starts).to(device)
        self._shapes = torch.tensor([image.shape for image in images], device=device)

    def cubic(self, rows: Tensor, data: Tensor, side: int) -> Tensor:
        """Bicubic interpolation, white outside: (N, side, side) uint8."""
        x, y, inside = self._points(rows, data, side)
        left, top = x.floor(), y.floor()
        dx, dy = x - left, y - top
        columns = [self._column(rows, left, step) for step in (-1, 0, 1, 2)]
        lines = []
        for step in (-1, 0, 1, 2):
            line = self._line(rows, top, step)
            lines.append(_cubic([self._read(line + column) for column in columns], dx))
        return _cubic(lines, dy).clamp(0, WHITE).where(inside, WHITE).to(torch.uint8)

    def linear(self, rows: Tensor, data: Tensor, side: int) -> Tensor:
        """Bilinear interpolation, 0 outside: (N, side, side) uint8."""
        x, y, inside = self._points(rows, data, side)
        left, top = x.floor(), y.floor()
        columns = [self._column(rows, left, step) for step in (0, 1)]
        lines = []
        for step in (0, 1):
            line = self._line(rows, top, step)
            lines.append(_linear(self._read(line + columns[0]), self._read(line + columns[1]), x - left))
        return _linear(lines[0], lines[1], y - top).where(inside, 0).to(torch.uint8)

    def _points(self, rows: Tensor, data: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        centre = torch.arange(side, device=rows.device, dtype=torch.float64) + 0.5
        a, b, c, d, e, f = data[:, :, None, None].unbind(1)
        x = a * centre + b * centre[:, None] + c
        y = d * centre + e * centre[:, None] + f
        height, width = self._shapes[rows, :, None, None].unbind(1)
        return x - 0.5, y - 0.5, (x >= 0) & (x < width) & (y >= 0) & (y < height)

    def _column(self, rows: Tensor, left: Tensor, step: int) -> Tensor:
        last = self._shapes[rows, 1, None, None] - 1
        return torch.minimum((left + step).long().clamp(min=0), last)

    def _line(self, rows: Tensor, top: Tensor, step: int) -> Tensor:
        height, width = self._shapes[rows, :, None, None].unbind(1)
        return self._starts[rows, None, None] + torch.minimum((top + step).long().clamp(min=0), height - 1) * width

    def _read(self, places: Tensor) -> Tensor:
        return self._flat[places].double()


def _cubic(v: list[Tensor], d: Tensor) -> Tensor:
    third = 2.0 * (v[0] - v[1]) + v[2] - v[3]
    return v[1] + d * ((v[2] - v[0]) + d * (third + d * (v[1] - v[0] - v[2] + v[3])))


def _linear(first: Tensor, second: Tensor, d: Tensor) -> Tensor:
    return first + (second - first) * d
