"""From bytes, a path or an array to one grey plane of known depth, or a refusal that says what was given instead."""

import codecs
import io
import os
import stat
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import SupcamError
from .levels import Grey, Refused, grey_of_colour, scaled_grey
from .tiff import read_tiff

# Damaged and odd files are named by our own errors. Once and for all: `catch_warnings` is not for several threads.
warnings.filterwarnings("ignore", module="PIL|tifffile")

Source = bytes | bytearray | memoryview | str | Path | NDArray[Any] | Image.Image

MAX_BYTES = 128 * 2**20
MAX_PIXELS = 40_000_000  # a metaphase of 6000 x 6000 and a little more
MIN_SIDE, MAX_SIDE = 3, 2**14

_EXPORT = "Export the crop as PNG or TIFF, 8- or 16-bit grey."
# First bytes of the formats that are read, by Pillow's names.
_READ = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
# What people give instead: first bytes, what it is, what to do.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip", "Unpack it and give the folder."),
    (b"PK\x05\x06", "an empty zip", "Export the crops again."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and give the folder."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it and give the folder."),
    (b"Rar!", "a RAR archive", "Unpack it and give the folder."),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself", "Fetch it: git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the picture itself", "Fetch it: git annex get"),
    (b"outs:\n- md5", "a DVC pointer, not the picture itself", "Fetch it: dvc pull"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000", _EXPORT),
    (b"\xff\x4f\xff\x51", "JPEG 2000", _EXPORT),
    (b"\0\0\0\x0cJXL ", "JPEG XL", _EXPORT),
    (b"\xff\x0a", "JPEG XL", _EXPORT),
    (b"%PDF", "a PDF", _EXPORT),
    (b"8BPS", "a Photoshop document", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", "Give the array itself to predict, or save it as TIFF."),
    (b"ZISRAWFILE", "a Zeiss CZI file", _EXPORT),
    (b"\xda\xce\xbe\x0a", "a Nikon ND2 file", _EXPORT),
    (b"\xd0\xcf\x11\xe0", "an Office or Zeiss ZVI file", _EXPORT),
    (b"p\0\0\0", "a Leica LIF file", _EXPORT),
)


class ImageError(SupcamError):
    """What was given is not a crop that can be read; the message names it, what it is, and the remedy."""


@dataclass(frozen=True)
class Plane:
    """One grey plane (H, W) as it was stored.

    Attributes:
        values: black 0 to full scale 255, NaN where nothing was stored.
        notes: what was done to get it.
        lossy: whether it was compressed with losses (JPEG, WebP), which leaves ripples around a body.
    """

    values: Grey
    notes: tuple[str, ...] = ()
    lossy: bool = False


def decode_plane(source: Source, *, page: int | None = None) -> Plane:
    """Decode one picture to grey, as deep as it was stored.

    Args:
        source: A path, encoded bytes, an array (H, W), (H, W, 1), (1, H, W), (H, W, 3 or 4) or (3 or 4, H, W), or a
            Pillow image.
        page: The plane of a stack, from 1. Without it a stack is refused; where there is one plane, that is read.

    Raises:
        ImageError: for anything else; the message is one line.
    """
    name = shown_path(source) if isinstance(source, (str, Path)) else "image"
    try:
        return _plane(source, page)
    except Refused as error:
        raise ImageError(f"{name} {error}") from None
    except Exception as error:  # Pillow and tifffile raise nearly every type on damaged files
        reason = " ".join((str(error) or type(error).__name__).split())
        if "cannot identify image file" in reason:  # and then the address of a buffer, which differs in every run
            reason = "no image in it"
        raise ImageError(f"{name} is damaged: {reason}. Export it again or leave it out.") from None


def shown_path(path: str | Path) -> str:
    """A path as text that every terminal and file takes; bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") if "\0" not in str(path) else repr(str(path))


def _plane(source: Source, page: int | None) -> Plane:
    if isinstance(source, Image.Image):
        return _of_pillow(source, [])
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if isinstance(source, (str, Path)):
        source = _file_bytes(source)
    if not isinstance(source, bytes):
        raise Refused(
            f"is given as {type(source).__name__}; allowed are a path, encoded bytes, an array or a Pillow image."
        )
    return _of_bytes(source, page)


def _file_bytes(path: str | Path) -> bytes:
    """Content of a regular file; a pipe is never opened, since that would wait for its other end."""
    try:
        state = Path(path).stat()
        for is_kind, kind in _KINDS:
            if is_kind(state.st_mode):
                raise Refused(f"is {kind}, not a file. Give an image file.")
        if state.st_size > MAX_BYTES:
            raise Refused(f"holds {state.st_size} bytes; allowed are at most {MAX_BYTES}. Save single crops.")
        with Path(path).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise Refused(f"cannot be opened: {reason}. Check the path.") from None


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _of_bytes(content: bytes, page: int | None) -> Plane:
    if len(content) > MAX_BYTES:
        raise Refused(f"holds {len(content)} bytes; allowed are at most {MAX_BYTES}. Save single crops.")
    if not content:
        raise Refused("is empty. Export it again or leave it out.")
    kind = _kind(content)
    _refuse_archive(content)
    if kind == "TIFF":
        stored = read_tiff(content, page, MAX_PIXELS)
        return replace(_finished(stored.values, stored.alpha, list(stored.notes)), lossy=stored.lossy)
    notes: list[str] = []
    with Image.open(io.BytesIO(content), formats=("JPEG", "MPO") if kind == "JPEG" else (kind,)) as image:
        _check_sides(*image.size)
        _choose_frame(image, page, notes)
        if kind == "PNG" and content[24] == 16 and content[25] in (2, 4, 6):
            return _deep_png(content, notes)
        image.load()
        upright = ImageOps.exif_transpose(image)
        if image.getexif().get(0x0112, 1) != 1:
            notes.append("rotated upright as its EXIF entry says")
        plane = _of_pillow(upright, notes)
    return replace(plane, lossy=kind == "JPEG" or (kind == "WEBP" and b"VP8 " in content[:64]))


def _kind(content: bytes) -> str:
    """Format by content, whatever the name of the file says.

    Raises:
        Refused: for a format that is not read, named by what it is.
    """
    for start, kind in _READ.items():
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    for start, what, remedy in _FOREIGN:
        if content.startswith(start):
            raise Refused(f"is {what}. {remedy}")
    if content[128:132] == b"DICM":
        raise Refused(f"is DICOM. {_EXPORT}")
    if content[4:8] == b"ftyp":
        raise Refused(f"is {content[8:12].decode('latin-1').strip().upper()} (HEIF, AVIF or a film). {_EXPORT}")
    head = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        raise Refused("is a web page (HTML), such as a login or error page. Download the picture again.")
    if head.startswith((b"<?xml", b"<svg")):
        raise Refused(f"is XML. {_EXPORT}")
    if not content.strip(b"\0"):
        raise Refused("holds zero bytes only: a copy that broke off. Copy it again.")
    if _is_text(content[:512]):
        raise Refused("is text, not a picture. Leave it out.")
    raise Refused(f"is not an image of a known format (PNG, TIFF, JPEG, BMP, GIF, WebP). {_EXPORT}")


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last letter may be cut off
    except UnicodeDecodeError:
        return False
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _refuse_archive(content: bytes) -> None:
    if b"PK\x05\x06" not in content:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except Exception:  # anything unreadable is not an archive, so not a polyglot
        return
    if names:
        raise Refused("carries a zip behind the image (two formats in one file). Export the image alone.")


def _check_sides(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Refused(f"is {width} x {height} pixels; allowed are at most {MAX_PIXELS} in all. Cut out the crop.")
    if not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise Refused(f"is {width} x {height} pixels; allowed are sides of {MIN_SIDE} to {MAX_SIDE}. Cut out the crop.")


def _choose_frame(image: Image.Image, page: int | None, notes: list[str]) -> None:
    """Go to the frame asked for; of several without ``page`` only a phone's (MPO: picture, then preview) is clear."""
    frames = int(getattr(image, "n_frames", 1))
    if page is not None and frames > 1 and not 1 <= page <= frames:
        raise Refused(f"has {frames} planes; --page {page} is not one of them. Allowed: 1 to {frames}.")
    if page is None and frames > 1 and image.format != "MPO":
        raise Refused(f"is a stack of {frames} frames. Name one with --page 1 to {frames}, or save that one alone.")
    if frames > 1:
        image.seek((page or 1) - 1)
        notes.append(f"plane {page or 1} of {frames} used")


def _deep_png(content: bytes, notes: list[str]) -> Plane:
    """16-bit colours, of which Pillow keeps the high byte: as little-endian it keeps the low one.

    Grey with alpha has no such second mode; its four bytes a pixel are those of 8-bit RGBA.
    """
    alpha: NDArray[Any] | None = None
    if content[25] == 4:
        header = content[12:24] + b"\x08\x06" + content[26:29]
        patched = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        with Image.open(io.BytesIO(patched), formats=("PNG",)) as image:
            pairs = np.asarray(image).astype(np.uint16)
        values, alpha = (pairs[..., 0] << 8) | pairs[..., 1], (pairs[..., 2] << 8) | pairs[..., 3]
    else:
        halves = []
        for order in "BL":
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                mode = "RGB" if content[25] == 2 else "RGBA"
                image.tile = [tile._replace(args=f"{mode};16{order}") for tile in image.tile]
                halves.append(np.asarray(image).astype(np.uint16))
        values = (halves[0] << 8) | halves[1]
        if values.shape[2] == 4:
            values, alpha = values[..., :3], values[..., 3]
    return _finished(values, alpha, notes)


def _of_pillow(image: Image.Image, notes: list[str]) -> Plane:
    mode = image.mode
    if ("transparency" in image.info and not mode.startswith("I")) or mode in {"PA", "La", "RGBa"}:
        image = image.convert("RGBA")
    elif mode == "LAB":
        image = image.getchannel("L")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in {"L", "LA", "RGB", "RGBA", "F"} and not mode.startswith("I"):
        image = image.convert("RGB")
    if mode not in {"L", "RGB", "F"} and not mode.startswith("I"):
        notes.append(f"mode {mode} turned to grey")
    values = np.asarray(image)
    if image.mode in {"LA", "RGBA"}:
        colour = values[..., 0] if image.mode == "LA" else values[..., :3]
        return _finished(colour, values[..., -1], notes)
    return _finished(values, None, notes)


def _of_array(array: NDArray[Any]) -> Plane:
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise Refused(f"is an array of {array.dtype}; allowed are bool, whole numbers and fractions of 1 to 64 bits.")
    array = array.astype(array.dtype.newbyteorder("="))
    shape = array.shape
    if array.ndim == 3 and shape[2] not in (3, 4) and shape[0] in (3, 4):
        array = np.moveaxis(array, 0, -1)
    # Axes of one, such as a channel or a batch of one picture, say nothing.
    while array.ndim > 2 and (1 in (array.shape[0], array.shape[-1])):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[2] not in (3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise Refused(
            f"is an array of shape {shape}; allowed are (H, W), (H, W, 1), (H, W, 3), (H, W, 4) and channels first. "
            "Give the pictures of a stack or batch one by one."
        )
    _check_sides(array.shape[1], array.shape[0])
    if array.ndim == 2:
        return _finished(array, None, [])
    return _finished(array[..., :3], array[..., 3] if array.shape[2] == 4 else None, [])


def _finished(values: NDArray[Any], alpha: NDArray[Any] | None, notes: list[str]) -> Plane:
    """Scale the depth, turn colours to grey and lay what is transparent on white."""
    _check_sides(values.shape[1], values.shape[0])
    if values.ndim == 3:
        values, note = grey_of_colour(values)
        notes += [note] if note else []
    grey, note = scaled_grey(values)
    notes = [*notes, note] if note else [*notes]
    if alpha is not None:
        grey = _on_white(grey, alpha, notes)
    return Plane(grey, tuple(notes))


def _on_white(grey: Grey, alpha: NDArray[Any], notes: list[str]) -> Grey:
    full = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
    cover = np.clip(alpha.astype(np.float32) / full, 0, 1)
    if (cover == 1).all():
        return grey
    laid = grey * cover + 255 * (1 - cover)
    # 32-bit BMP and some exports leave the channel unset, others store it the other way round.
    if float(np.nanmin(laid)) >= 250 > float(np.nanmin(grey)):
        notes.append("transparency that hides everything left out")
        return grey
    notes.append("transparent parts laid on white")
    return np.asarray(np.rint(laid), dtype=np.uint8) if grey.dtype == np.uint8 else np.asarray(laid, dtype=np.float32)
