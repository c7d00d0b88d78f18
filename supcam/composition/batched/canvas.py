"""Composites of any size on squares of one size, as Pillow makes them.

Pixel for pixel, but for tall crops that Pillow from 13 on shrinks vertically first: one grey level may differ there.
"""

from typing import Literal

import torch
from torch import Tensor

from supcam.composition.batched.masks import within
from supcam.composition.masks import WHITE
from supcam.serving.images import FOREGROUND

_BITS = 22  # of the fixed point in which Pillow resizes 8-bit images


def fitted(images: Tensor, shapes: Tensor, size: int, scale: Literal["letterbox", "native"]) -> Tensor:
    """Images (N, K, K) uint8 of ``shapes`` (N, 2), each at its frame's first pixel, on white: (N, size, size) uint8.

    The same as ``supcam.serving.images.letterbox`` or ``native_canvas`` of each.
    """
    first, shapes = _foreground(images, shapes)
    longest = shapes.amax(1)
    # Not size / longest: torch takes the reciprocal first, and the last bit decides how a half is rounded.
    ratio = torch.full_like(longest, size, dtype=torch.float64) / longest
    if scale == "native":
        ratio = ratio.clamp(max=1.0)
    scaled = (shapes * ratio[:, None]).round().long().clamp(min=1)
    rows, columns = (
        _weights(first[:, axis], shapes[:, axis], scaled[:, axis], ratio < 1, images.shape[1], size) for axis in (0, 1)
    )
    # First along rows, as Pillow does, rounding to 8 bits in between.
    wide = _rounded(images.double() @ columns.transpose(1, 2))
    small = _rounded(rows @ wide)
    corner = (size - scaled) // 2
    box = torch.cat((corner, corner + scaled), 1)
    return small.where(within(box, size), WHITE).to(torch.uint8)


def _foreground(images: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """First pixel and shape, both (N, 2), of each image's box of foreground; its frame where there is none."""
    none = torch.zeros_like(shapes)
    foreground = (images < FOREGROUND) & within(torch.cat((none, shapes), 1), images.shape[1])
    held = torch.stack((foreground.any(2), foreground.any(1)), 1)  # (N, 2 axes, K)
    first = held.byte().argmax(2)
    last = images.shape[1] - held.flip(2).byte().argmax(2)
    some = held.any(2)
    return first.where(some, none), (last - first).where(some, shapes)


def _rounded(values: Tensor) -> Tensor:
    return ((values + 2.0 ** (_BITS - 1)) * 2.0**-_BITS).floor().clamp(0, WHITE)


def _weights(origin: Tensor, length: Tensor, scaled: Tensor, shrink: Tensor, side: int, size: int) -> Tensor:
    """(N, size, side) float64: how much of each pixel goes into each one of the square, in Pillow's fixed point.

    The ``length`` pixels from ``origin`` on are scaled; boxes where they shrink, triangles where they grow.
    """
    step = length.double() / scaled
    wide = step.clamp(min=1.0)[:, None]
    centre = (torch.arange(size, device=length.device) - ((size - scaled) // 2)[:, None] + 0.5) * step[:, None]
    support = torch.where(shrink, 0.5, 1.0)[:, None] * wide
    first = (centre - support + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + support + 0.5).trunc(), length[:, None].double())
    pixel = torch.arange(side, device=length.device, dtype=torch.float64) - origin[:, None, None]
    away = (pixel - centre[:, :, None] + 0.5) * (1.0 / wide)[:, :, None]
    box = ((away > -0.5) & (away <= 0.5)).double()
    weights = torch.where(shrink[:, None, None], box, (1.0 - away.abs()).clamp(min=0.0))
    weights = weights.where((pixel >= first[:, :, None]) & (pixel < last[:, :, None]), 0.0)
    total = weights.sum(2, keepdim=True)
    return (weights / total.where(total > 0, 1.0) * 2.0**_BITS + 0.5).floor()
