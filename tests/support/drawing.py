"""Small drawn crops: as pictures, as image files, and as source folders to import."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supcam.cluster_type import TYPE_LABELS

Grey = NDArray[np.uint8]

_FORMATS = {".png": "PNG", ".tif": "TIFF", ".jpg": "JPEG", ".bmp": "BMP"}


def draw_crop(seed: int, height: int = 40, width: int = 30) -> Grey:
    """A banded soft body on white, (height, width), another for each seed; it passes every rule of the data."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.35, 0.9)
    y, x = (rows - height / 2) / (height / 2.6), (columns - width / 2) / (width / 2.6)
    u, v = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / ratio
    bands = 120 + 70 * np.sin(u * rng.uniform(4, 12) + rng.uniform(0, 6)) * np.cos(v * rng.uniform(0, 5))
    body = np.where(np.hypot(u, v) < 1, bands, 255)
    body[(body == 255) & (np.hypot(u, v) < 1.12)] = 235
    return body.astype(np.uint8)


def bar_crop(grey: int = 90) -> Grey:
    """One dark bar on white, (40, 30)."""
    crop = np.full((40, 30), 255, dtype=np.uint8)
    crop[8:32, 10:20] = grey
    return crop


def typed_crop(kind: int, rng: np.random.Generator) -> Grey:
    """A cluster of a type (its code) as bars on white, (40, 40): one, two apart by a grey halo, two crossing, or both.

    The grey level and the height of the bars are drawn from ``rng``.
    """
    image = np.full((40, 40), 255, dtype=np.uint8)
    grey = int(rng.integers(60, 140))
    top = int(rng.integers(4, 9))
    image[top : top + 24, 8:13] = grey
    if kind & 2:
        image[top + 10 : top + 14, 4:24] = grey - 30
    if kind & 1:
        image[top + 2 : top + 26, 13:15] = 245
        image[top + 2 : top + 26, 15:20] = grey
    return image


def bar_canvases(count: int, seed: int, size: int) -> Grey:
    """Dark bars on white, (count, size, size): what a model is given."""
    rng = np.random.default_rng(seed)
    crops = np.full((count, size, size), 255, dtype=np.uint8)
    for crop in crops:
        top, left = rng.integers(2, size // 2, 2)
        height, width = rng.integers(4, size // 2, 2)
        crop[top : top + height, left : left + width] = rng.integers(40, 180)
    return crops


def encode(image: Grey | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Bytes of an image file."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_crop(path: Path, image: Grey) -> Path:
    """Write a crop in the format of its suffix, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, _FORMATS[path.suffix.lower()]))
    return path


def write_source(root: Path, *, per_type: int = 6, cases: int = 3, seed: int = 0, suffix: str = ".png") -> Path:
    """A folder per type, with crops named after their case."""
    for kind_index, kind in enumerate(TYPE_LABELS):
        for index in range(per_type):
            crop = draw_crop(seed + 1000 * kind_index + index, 40 + index, 36)
            write_crop(root / kind / f"case{index % cases} [{index}] a{suffix}", crop)
    return root
