"""The one decoder of crops (numpy and Pillow only) and the two ways a crop becomes a square."""

import io
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import SupcamError

IMAGE_SUFFIXES: frozenset[str] = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"})
FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 2**25
MIN_SIDE, MAX_SIDE = 3, 2**14
WHITE = 255

# Foreground is below this level; a background at or above it is left as it is.
FOREGROUND = 250


class ImageError(SupcamError):
    """A file is not a crop that can be read; the message names the file and the reason."""


@dataclass(frozen=True)
class DecodedCrop:
    """A decoded crop, (H, W) 8-bit grey on white, and what was changed on the way to it."""

    image: NDArray[np.uint8]
    notes: tuple[str, ...]


def decode_crop(source: bytes | str | Path) -> NDArray[np.uint8]:
    """Decode a crop to 8-bit grey with white background 255, shape (H, W), see :func:`read_crop`."""
    return read_crop(source).image


def read_crop(source: bytes | str | Path) -> DecodedCrop:
    """Decode a crop and say which of its properties were normalised.

    Raises:
        ImageError: for a file that is missing, too large, truncated, also an archive, or not an image.
    """
    name = "image" if isinstance(source, bytes) else str(source)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            grey = _decode(source if isinstance(source, bytes) else _read_bytes(Path(source)), notes)
    except ImageError as error:
        raise ImageError(f"{name} {error}") from None
    except Exception as error:  # Pillow raises nearly every type on damaged files
        # Pillow's own words hold the address of a buffer, which differs in every run.
        unknown, text = "cannot identify image file" in str(error), str(error) or type(error).__name__
        raise ImageError(
            f"{name} cannot be read as {', '.join(FORMATS)}: {'no image in it' if unknown else text}. "
            "It is damaged or another kind of file: export it again or leave it out."
        ) from None
    return DecodedCrop(_whiten(grey, notes), tuple(notes))


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
    sides = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return _centred(np.asarray(Image.fromarray(crop).resize(sides, method)), size)


def native_canvas(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre the foreground of a crop (H, W) on white at its own pixel scale, (size, size); a larger one is shrunk."""
    crop = _without_frame(crop)
    return letterbox(crop, size) if max(crop.shape) > size else _centred(crop, size)


def _without_frame(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """View of the smallest box of a crop (H, W) that holds its foreground, v < 250; the whole crop without any."""
    foreground = crop < FOREGROUND
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    if not len(rows):
        return crop
    return crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def border_of(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels along the four edges of a crop (H, W), shape (n,): they show the background."""
    return np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]])


def _read_bytes(path: Path) -> bytes:
    try:
        _check_size(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be opened: {error.strerror or error}. Check the path.") from None


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"holds {size} bytes; allowed are at most {MAX_BYTES}. Save single crops.")


def _carries_archive(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return bool(archive.namelist())
    except Exception:  # what zipfile cannot read is not an archive
        return False


def _decode(content: bytes, notes: list[str]) -> NDArray[np.uint8]:
    """What an image is, Pillow decides; stopped are no or too many bytes or pixels, and an archive behind the image."""
    _check_size(len(content))
    if not content:
        raise ImageError("is empty. Export it again or leave it out.")
    if b"PK\x05\x06" in content and _carries_archive(content):
        raise ImageError("carries an archive behind the image (two formats in one file). Export the image alone.")
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        width, height = opened.size
        sides = f"is {width} x {height} pixels; allowed are"
        if width * height > MAX_PIXELS:
            raise ImageError(f"{sides} at most {MAX_PIXELS} in all. Cut out the crop.")
        if not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
            raise ImageError(f"{sides} sides of {MIN_SIDE} to {MAX_SIDE}. Cut out the crop.")
        opened.load()
        upright = ImageOps.exif_transpose(opened)
        if opened.getexif().get(0x0112, 1) != 1:
            notes.append("rotated upright as its EXIF entry says")
        grey = _to_grey(upright, notes)
        if _has_second_page(opened):
            notes.append("first of several pages used")
    return grey


def _has_second_page(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except (EOFError, OSError, ValueError, SyntaxError):
        return False
    return True


def _to_grey(image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    mode = image.mode
    if mode == "L" and "transparency" not in image.info:
        return np.array(image, dtype=np.uint8)
    if mode.startswith("I") or mode == "F":
        return _scale_depth(np.asarray(image), notes)
    notes.append(f"mode {mode} turned to grey")
    if mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        colour = image.convert("RGBA")
        paper = Image.new("RGBA", colour.size, (WHITE, WHITE, WHITE, WHITE))
        image = Image.alpha_composite(paper, colour)
    if image.mode not in {"RGB", "L", "1"}:
        image = image.convert("RGB")
    return np.array(image.convert("L"), dtype=np.uint8)


def _scale_depth(values: NDArray[Any], notes: list[str]) -> NDArray[np.uint8]:
    """Bring deep grey to 8 bits by the depth the camera used: the smallest that holds the brightest pixel."""
    if not np.isfinite(values).all() or values.min() < 0:
        raise ImageError("has negative or undefined pixels. Export it as 8- or 16-bit grey.")
    top = float(values.max())
    fractional = np.issubdtype(values.dtype, np.floating) and top <= 1
    depth = next((bits for bits in (8, 10, 12, 14, 16, 32) if top <= 2**bits - 1), None)
    if depth is None:
        raise ImageError(f"has pixels up to {top:g}; allowed is at most 32 bits. Export it as 8- or 16-bit grey.")
    notes.append("fractions of 1 scaled to 8 bits" if fractional else f"{depth}-bit grey scaled to 8 bits")
    whole = 1.0 if fractional else float(2**depth - 1)
    return np.round(values.astype(np.float64) * (WHITE / whole)).astype(np.uint8)


def _whiten(grey: NDArray[np.uint8], notes: list[str]) -> NDArray[np.uint8]:
    """Turn a dark background to white and stretch a grey one to 255, leaving clean crops untouched."""
    border = border_of(grey)
    level = float(np.median(border))
    if level < 128 and float(grey.mean()) > level:
        grey, border = WHITE - grey, WHITE - border
        notes.append("dark background inverted")
    # A body may cover part of the edge; the background is the bright part of it.
    paper = int(np.percentile(border, 90))
    if paper >= FOREGROUND or paper < 128:
        return grey
    notes.append(f"grey background {paper} stretched to {WHITE}")
    return np.minimum(np.round(grey * (WHITE / paper)), WHITE).astype(np.uint8)


def _centred(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = crop.shape
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.full((size, size), WHITE, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = crop
    return canvas
