"""Small drawn crops and source folders for the tests of the data."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supcam.cluster_type import TYPE_LABELS

Grey = NDArray[np.uint8]


def draw_crop(seed: int, height: int = 40, width: int = 30) -> Grey:
    """A banded soft body on white, another for each seed."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.35, 0.9)
    y, x = (rows - height / 2) / (height / 2.6), (columns - width / 2) / (width / 2.6)
    u, v = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / ratio
    bands = 120 + 70 * np.sin(u * rng.uniform(4, 12) + rng.uniform(0, 6)) * np.cos(v * rng.uniform(0, 5))
    body = np.where(np.hypot(u, v) < 1, bands, 255)
    body[(body == 255) & (np.hypot(u, v) < 1.12)] = 235
    return body.astype(np.uint8)


def encode(image: Grey | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Bytes of an image file."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_source(root: Path, *, per_type: int = 6, cases: int = 3, seed: int = 0, suffix: str = ".png") -> Path:
    """A folder per type, with crops named after their case."""
    for kind_index, kind in enumerate(TYPE_LABELS):
        for index in range(per_type):
            path = root / kind / f"case{index % cases} [{index}] a{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(draw_crop(seed + 1000 * kind_index + index, 40 + index, 36), _KIND[suffix.lower()]))
    return root


_KIND = {".png": "PNG", ".tif": "TIFF", ".jpg": "JPEG", ".bmp": "BMP"}
