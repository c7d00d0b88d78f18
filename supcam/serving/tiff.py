"""TIFF files: which of their planes is the picture, and its values as stored (tifffile, else Pillow's libtiff)."""

import io
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .levels import Refused, turned

_PLAIN = (0, 1, 2, 3)  # MinIsWhite, MinIsBlack, RGB, palette: read by tifffile; other colour spaces by Pillow
_MIN_IS_WHITE, _RGB, _PALETTE = 0, 2, 3
# What tifffile unpacks with the standard library: none, Deflate (two codes), LZMA, PackBits.
_UNPACKED = (1, 8, 32946, 34925, 32773)
_JPEG = (6, 7)
# Planes end in no more bytes than these.
_PADDING = 64


@dataclass(frozen=True)
class StoredPlane:
    """Values as stored, (H, W) or (H, W, 3), white on top; ``alpha`` (H, W) where one is stored; notes; JPEG or not."""

    values: NDArray[Any]
    alpha: NDArray[Any] | None
    notes: tuple[str, ...]
    lossy: bool


def read_tiff(content: bytes, page: int | None, max_pixels: int) -> StoredPlane:
    """Read the one plane of a TIFF, of several the plane numbered ``page`` (from 1).

    Thumbnails beside the picture do not count as planes.

    Raises:
        Refused: for a stack without ``page``, a compression or layout that is not read, a file that ends early.
    """
    import tifffile  # 0.1 s to import: not for those who have no TIFF

    for library in ("tifffile", "PIL.TiffImagePlugin"):  # they log what they then raise or pass over
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        planes, hidden = _planes(file)
        if not planes:
            raise Refused("holds no picture. Export it again.")
        if page is None and len(planes) > 1:
            raise Refused(
                f"is a stack of {len(planes)} planes. Name one with --page 1 to {len(planes)}, or save that one alone."
            )
        if page is not None and len(planes) > 1 and not 1 <= page <= len(planes):
            raise Refused(f"has {len(planes)} planes; --page {page} is not one of them. Allowed: 1 to {len(planes)}.")
        index = (page or 1) - 1 if len(planes) > 1 else 0
        notes = [f"plane {page} of {len(planes)} used"] if page and len(planes) > 1 else []
        notes += [f"{hidden} thumbnail{'s' if hidden > 1 else ''} left out"] if hidden else []
        plane = planes[index]
        _check_size(plane, max_pixels)
        _check_complete(plane.page, len(content))
        if len(planes) == 1:
            _check_behind(plane.page, len(content))
        values = _stored(plane, content)
        return _as_plane(plane, values, notes)


@dataclass(frozen=True)
class _Candidate:
    """A plane of a file: the page that describes it, its number in the file, and its index within the page's data."""

    page: Any
    number: int
    index: int | None = None
    series: Any = None

    @property
    def sides(self) -> tuple[int, int]:
        return int(self.page.imagelength), int(self.page.imagewidth)


def _planes(file: Any) -> tuple[list[_Candidate], int]:
    """Planes of full size, and the number of thumbnails beside them."""
    pages = list(file.pages)
    found: list[_Candidate] = []
    described = _described_stack(file)
    if described is not None and described[1] > len(pages):
        series, count = described
        return [_Candidate(pages[0], 0, index, series) for index in range(count)], 0
    for number, listed in enumerate(pages):
        page = listed if hasattr(listed, "photometric") and hasattr(listed, "tags") else file.pages[number].aspage()
        planar = _separate_channels(page)
        found += [_Candidate(page, number, index) for index in (range(planar) if planar else [None])]
    largest = max((height * width for height, width in (plane.sides for plane in found)), default=0)
    full = [plane for plane in found if 4 * plane.sides[0] * plane.sides[1] > largest and not plane.page.is_reduced]
    full = full or found
    return full, len(found) - len(full)


def _described_stack(file: Any) -> tuple[Any, int] | None:
    """Series and number of planes of ImageJ, MetaMorph and other stacks whose planes have no directory each."""
    if not (file.is_imagej or file.is_stk or file.is_lsm or file.is_shaped or file.is_scanimage):
        return None
    try:
        series = file.series[0]
        sides = [length for length, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXS"]
        return series, int(np.prod(sides, dtype=np.int64)) if sides else 1
    except Exception:  # metadata of foreign programs; the pages themselves are still there
        return None


def _separate_channels(page: Any) -> int:
    """Number of channels that are not colours: two or more grey ones in one page; 0 for colours and plain grey."""
    samples = int(page.samplesperpixel)
    if samples == 1 or page.photometric not in (0, 1):
        return 0
    alpha = any(int(kind) in (1, 2) for kind in page.extrasamples)
    return 0 if samples == 2 and alpha else samples


def _check_size(plane: _Candidate, max_pixels: int) -> None:
    height, width = plane.sides
    if height * width > max_pixels or plane.page.imagedepth > 1:
        raise Refused(f"is {width} x {height} pixels; allowed are at most {max_pixels} in all. Cut out the crop.")
    size = plane.series.size if plane.series is not None else height * width * int(plane.page.samplesperpixel)
    if size * (plane.page.dtype.itemsize if plane.page.dtype else 1) > 8 * max_pixels:
        raise Refused(f"unpacks to more than {8 * max_pixels} bytes, the most allowed. Save the plane alone.")


def _check_complete(page: Any, length: int) -> None:
    """Strips that lie behind the end of the file would be read as black."""
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    missing = len(ends) < math.prod(page.chunked) or 0 in page.databytecounts
    if not ends or missing or max(ends) > length:
        raise Refused("is truncated: part of its pixels is missing. Export it again.")


def _check_behind(page: Any, length: int) -> None:
    """Planes that lie behind the first one without a directory, as MetaMorph and old ImageJ files have them.

    What the directory itself points to (profiles, notes, smaller copies) is not a plane, nor what has another length.
    """
    if page.compression != 1 or page.dtype is None or page.nbytes < 1:
        return
    end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False))
    described = [page.offset, *(tag.valueoffset for tag in page.tags)]
    for part in page.pages or ():
        described += [part.offset, *part.dataoffsets]
    more, rest = divmod(min([length, *(start for start in described if start >= end)]) - end, page.nbytes)
    if more and rest < _PADDING:
        raise Refused(
            f"is a stack of {more + 1} planes without directories (as MetaMorph writes). Save the one plane alone."
        )


def _stored(plane: _Candidate, content: bytes) -> NDArray[Any]:
    page = plane.page
    if page.photometric in _PLAIN and page.compression in _UNPACKED:
        try:
            if plane.series is not None:
                stack = plane.series.asarray()
                tail = 3 if plane.series.axes.endswith("S") else 2  # colours belong to their plane
                return np.asarray(stack.reshape(-1, *stack.shape[-tail:])[plane.index])
            values = np.asarray(page.asarray())
            return _one_channel(values, page, plane.index)
        except Exception as error:  # a predictor or packing that needs imagecodecs
            if "imagecodecs" not in str(error) and not isinstance(error, (ImportError, NotImplementedError)):
                raise
    return _by_pillow(plane, content)


def _one_channel(values: NDArray[Any], page: Any, index: int | None) -> NDArray[Any]:
    """Page values with channels last; one of them where channels count as planes."""
    if int(page.samplesperpixel) > 1 and int(page.planarconfig) == 2:
        values = np.moveaxis(values, 0, -1)
    return values if index is None else values[..., index]


def _by_pillow(plane: _Candidate, content: bytes) -> NDArray[Any]:
    """Values of a page by Pillow, with the number types it does not know taken back from their bytes."""
    page = plane.page
    name = getattr(page.compression, "name", str(page.compression)[:20])
    refusal = Refused(
        f"is a TIFF with {name} compression or a layout that is not read ({page.dtype}, "
        f"{getattr(page.photometric, 'name', page.photometric)}). Save it uncompressed, 8- or 16-bit grey."
    )
    if plane.index is not None:
        raise refusal
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            image.seek(plane.number)
            if image.mode == "RGB" and int(page.bitspersample) == 16:
                return _both_bytes(content, plane.number)
            values = _pillow_values(image)
    except Refused:
        raise
    except Exception as error:  # Pillow raises nearly every type on what it does not know
        raise refusal from error
    if page.dtype == np.int8 and values.dtype == np.uint8:
        return values.view(np.int8)
    if page.dtype == np.uint32 and values.dtype == np.int32:
        return values.view(np.uint32)
    # Of what has white at 0 Pillow turns 1 and 8 bits, not more.
    deep = values.ndim == 2 and values.dtype.itemsize > 1
    return turned(values) if page.photometric == _MIN_IS_WHITE and deep else values


def _pillow_values(image: Image.Image) -> NDArray[Any]:
    if image.mode == "LAB":
        return _grey_of_lightness(np.asarray(image)[..., 0])
    if image.mode in {"CMYK", "YCbCr", "P", "PA"}:
        image = image.convert("RGB")
    return np.asarray(image)


def _grey_of_lightness(lightness: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """sRGB grey of CIE L* stored as 0-255."""
    star = lightness.astype(np.float64) * (100 / 255)
    linear = np.where(star > 8, ((star + 16) / 116) ** 3, star / 903.3)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    grey: NDArray[np.uint8] = np.rint(np.clip(encoded, 0, 1) * 255).astype(np.uint8)
    return grey


def _both_bytes(content: bytes, number: int) -> NDArray[np.uint16]:
    """16-bit colours, of which Pillow keeps the high byte: read as the other byte order, it keeps the low one."""
    halves = {}
    for order in "LB":
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            image.seek(number)
            image.tile = [
                tile._replace(args=(f"RGB;16{order}", *tile.args[1:])) if isinstance(tile.args, tuple) else tile
                for tile in image.tile
            ]
            halves[order] = np.asarray(image).astype(np.uint16)
    return np.asarray((halves["L"] << 8) | halves["B"], dtype=np.uint16)


def _as_plane(plane: _Candidate, values: NDArray[Any], notes: list[str]) -> StoredPlane:
    page = plane.page
    if page.photometric == _PALETTE and values.ndim == 2 and page.colormap is not None:
        table = np.asarray(page.colormap)
        table = (table >> 8).astype(np.uint8) if table.max() > 255 else table.astype(np.uint8)
        values = np.moveaxis(table[:, values], 0, -1)
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        last = values[..., -1]
        alpha = last if any(int(kind) in (1, 2) for kind in page.extrasamples) else None
        values = values[..., :-1]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise Refused(f"has pixels of {values.shape[2:]} values; allowed are grey and RGB. Save it as 8-bit grey.")
    by_us = page.compression in _UNPACKED and page.photometric == _MIN_IS_WHITE
    if by_us:
        values = turned(values)
    tag = page.tags.get(274)
    return StoredPlane(
        _oriented(values, tag),
        None if alpha is None else _oriented(alpha, tag),
        tuple(notes),
        page.compression in _JPEG,
    )


def _oriented(values: NDArray[Any], tag: Any) -> NDArray[Any]:
    """Upright, as tag 274 (orientation, 1-8) says."""
    orientation = int(tag.value) if tag is not None and str(tag.value).isdigit() else 1
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
