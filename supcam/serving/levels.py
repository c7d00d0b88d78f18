"""From stored numbers to grey 0-255: how deep the values of a picture are, and what its colours are worth as grey."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32] | NDArray[np.uint8]

# Depths that cameras and programs save. Of several that fit, the smallest is meant; sums of pictures have any above.
_DEPTHS = (8, 10, 12, 14, *range(15, 65))
_OFFSET = 32768  # Olympus ScanR and others save signed 16 bits as unsigned: black lies here


class Refused(ValueError):
    """A picture that is not read; the message ends a sentence that begins with its name."""


def scaled_grey(values: NDArray[Any]) -> tuple[Grey, str]:
    """Grey values (H, W) of any number type with black 0 and full scale 255, and what was done: to 8-bit ones nothing.

    Full scale is that of the smallest usual depth that holds the values, a few hot pixels aside. Signed integers are
    taken as unsigned ones moved down by half their depth.

    Raises:
        Refused: for values below 0 in floating point, where black is not known, and for no values at all.
    """
    if values.dtype == np.uint8:
        return values, ""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), "1 bit turned to grey"
    bits = values.dtype.itemsize * 8
    if values.dtype.kind == "f":
        return _scaled_fractions(values.astype(np.float64 if bits == 64 else np.float32), bits)
    low, high = _robust_range(values)
    black, word = 0, ""
    # Values below 0 tell a depth moved down by half: whatever is darker than mid grey is there then.
    if low < 0 or (bits == 8 and values.dtype.kind == "i"):
        depth = next(depth for depth in _DEPTHS if -(2 ** (depth - 1)) <= low and high < 2 ** (depth - 1))
        black, word = -(2 ** (depth - 1)), "signed "
    elif low >= _OFFSET and high < _OFFSET + 2**14:
        depth = next(depth for depth in _DEPTHS if high - _OFFSET < 2**depth)
        black, word = _OFFSET, f"above {_OFFSET}, "
    else:
        depth = 16 if bits == 16 and _is_spread(values) else next(depth for depth in _DEPTHS if high < 2**depth)
    # In place: a whole metaphase is large.
    grey: NDArray[np.floating[Any]] = values.astype(np.float64 if bits > 16 else np.float32)
    grey -= black
    grey *= 255 / (2**depth - 1)
    note = f"{bits}-bit values ({word}{depth} bits in use) scaled to 8 bits"
    return np.clip(grey, 0, 255, out=grey).astype(np.float32, copy=False), note


def turned(values: NDArray[Any]) -> NDArray[Any]:
    """Values whose smallest is white, the other way round within the depth that they use."""
    if values.dtype == np.bool_:
        return ~values
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        return np.asarray(_full_scale(finite.max()) - values, dtype=values.dtype) if len(finite) else values
    limits = np.iinfo(values.dtype)
    if limits.min:
        return np.asarray(-1 - values, dtype=values.dtype)
    full = limits.max
    if limits.bits > 8 and not _is_spread(values):
        high = _robust_range(values)[1]
        full = 2 ** next(depth for depth in _DEPTHS if high < 2**depth) - 1
    return np.asarray(full - np.minimum(values, full), dtype=values.dtype)


def _is_spread(values: NDArray[Any]) -> bool:
    """Whether eight or twelve bits were moved up to fill sixteen: all values are then multiples of 257, 256 or 16."""
    common = int(np.gcd.reduce(values, axis=None))
    return common > 0 and (common % 257 == 0 or (common >= 16 and common & (common - 1) == 0))


def _scaled_fractions(values: NDArray[Any], bits: int) -> tuple[Grey, str]:
    finite = np.isfinite(values)
    if not finite.any():
        raise Refused("holds no numbers (all NaN). Export it again.")
    low, high = _robust_range(values[finite])
    if low < -0.01 * max(high, 1e-6):
        raise Refused(f"has values down to {low:.3g}: which of them is black is not known. Save 8 or 16 bits.")
    full = _full_scale(high)
    grey = np.where(finite, np.clip(values * (255 / full), 0, 255), np.nan).astype(np.float32)
    return grey, f"{bits}-bit fractions (full scale {full:g}) scaled to 8 bits"


def _full_scale(high: float) -> float:
    """Full scale of fractions whose highest is ``high``; two per cent above one are rounding and sharpening."""
    return next((full for full in (1, *(2**depth - 1 for depth in _DEPTHS)) if high <= full * 1.02), float(high))


def _robust_range(values: NDArray[Any]) -> tuple[float, float]:
    """Darkest and brightest value but for a few dead and hot pixels: one in a thousand, and two at least."""
    flat = values.ravel()
    few = min(max(2, flat.size // 1000), (flat.size - 1) // 2)
    ordered = np.partition(flat, (few, flat.size - 1 - few))
    return ordered[few].item(), ordered[-1 - few].item()


def grey_of_colour(colour: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """One plane of the same number type for (H, W, 3), and what it is.

    Dyes that shine on a dark ground keep their brightest channel: blue is nearly black to the eye. Anything else gets
    the usual luma (ITU-R BT.601).
    """
    first = colour[..., 0]
    if np.array_equal(first, colour[..., 1]) and np.array_equal(first, colour[..., 2]):
        return first, ""
    if _shines(colour):
        return colour.max(axis=2), "colours on dark ground: brightest channel taken"
    if colour.dtype == np.uint8:
        return np.asarray(Image.fromarray(colour).convert("L")), "colours turned to grey"
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float64)
    luma = colour @ weights
    return luma if colour.dtype.kind == "f" else np.rint(luma).astype(colour.dtype), "colours turned to grey"


def _shines(colour: NDArray[Any]) -> bool:
    """Whether the ground is dark and what is bright has a colour."""
    step = max(1, int(np.sqrt(colour.shape[0] * colour.shape[1] / 40_000)))
    sample = colour[::step, ::step].reshape(-1, 3).astype(np.float64)
    top = sample.max(axis=1)
    dark, bright = np.percentile(top, (15, 95))
    shining = sample[top >= bright]
    saturation = (shining.max(axis=1) - shining.min(axis=1)) / np.maximum(shining.max(axis=1), 1e-12)
    return bool(dark < 0.3 * bright and np.median(saturation) > 0.3)
