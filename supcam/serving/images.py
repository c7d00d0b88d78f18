"""A crop as every part of the product sees it (one reading), and the two ways it becomes a square."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .decoding import MAX_BYTES, MAX_PIXELS, ImageError, Source, decode_plane
from .reading import FOREGROUND, WHITE, Reading, read_grey

__all__ = [
    "FOREGROUND",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "WHITE",
    "ImageError",
    "Reading",
    "Source",
    "decode_crop",
    "letterbox",
    "native_canvas",
    "read_crop",
    "square_of",
]

IMAGE_SUFFIXES: frozenset[str] = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})


def decode_crop(source: Source, *, page: int | None = None) -> NDArray[np.uint8]:
    """Read a crop as 8-bit grey, dark on white 255, shape (H, W); arguments and errors as :func:`read_crop`."""
    return read_crop(source, page=page).image


def read_crop(source: Source, *, page: int | None = None) -> Reading:
    """Read a crop: decoded as deep as it was stored, brought onto white paper, measured for the gate.

    Args:
        source: A path, encoded bytes, an array, or a Pillow image, as :func:`.decoding.decode_plane` takes them.
        page: The plane of a stack, from 1; where there is one plane, that is read.

    Raises:
        ImageError: for what is not one picture; the message names it, what it is, and the remedy.
    """
    plane = decode_plane(source, page=page)
    reading = read_grey(plane.values, lossy=plane.lossy)
    return replace(reading, notes=(*plane.notes, *reading.notes))


def letterbox(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the foreground of a crop (H, W) to fit, keep its aspect and centre it on white, shape (size, size).

    How much white stands around the foreground changes nothing. Shrinking averages over areas, so thin bridges between
    bodies fade rather than vanish.
    """
    crop = _without_frame(crop)
    height, width = crop.shape
    scale = size / max(height, width)
    if scale == 1:
        return _centred(crop, size)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return _centred(np.asarray(Image.fromarray(crop).resize(shape, method)), size)


def native_canvas(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre the foreground of a crop (H, W) on white at its own pixel scale, shape (size, size).

    Only a larger foreground is shrunk.
    """
    crop = _without_frame(crop)
    return letterbox(crop, size) if max(crop.shape) > size else _centred(crop, size)


def square_of(crop: NDArray[np.uint8], size: int, scale: str) -> NDArray[np.uint8]:
    """A crop (H, W) as the setting ``input.scale`` has it, ``letterbox`` or ``native``: shape (size, size)."""
    return native_canvas(crop, size) if scale == "native" else letterbox(crop, size)


def _without_frame(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """View of the smallest box of a crop (H, W) that holds its foreground, v < 250; the whole crop without any."""
    foreground = crop < FOREGROUND
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    if not len(rows):
        return crop
    return crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centred(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = crop.shape
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.full((size, size), WHITE, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = crop
    return canvas
