"""The same picture found again: turned or mirrored (8 symmetries), resized, or saved in a lossy format.

The fingerprint is a perceptual hash in its continuous form, placed and scaled by the moments of the body, so that
neither a new size nor the noise of a JPEG moves it: mirroring only changes the sign of some of its coefficients, and
turning swaps its axes.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from supcam.data.groups import connected, merged

# Correlation at or above which two fingerprints are of one picture; measured in docs/data.md.
SAME_PICTURE = 0.996
# Logarithms of the aspects (height over width) of one picture differ at most by this, whatever its size.
_ASPECT = 0.03

_SIDE, _COEFFICIENTS = 48, 16
SIZE = _COEFFICIENTS**2
# Grey levels above it are background; half of the window's side, in standard deviations of the body.
_BODY_LEVEL, _REACH = 240, 2.4
_BLOCK = 256

_ROW, _COLUMN = (axis.ravel()[1:] for axis in np.indices((_COEFFICIENTS, _COEFFICIENTS)))
_TURNED = _COLUMN * _COEFFICIENTS + _ROW - 1
# Coefficients by whether mirroring up-down, and left-right, changes their sign; and the signs of the four mirrorings.
_PARITIES = [np.flatnonzero(parity == 2 * (_ROW % 2) + _COLUMN % 2) for parity in range(4)]
_MIRRORINGS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])


def fingerprint(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Fingerprint (256,) of a crop (H, W), 8-bit grey on white; all 0 without a body.

    Low-frequency cosine coefficients of unit length, then the logarithm of the body's height over its width. It is
    given for the upright body: where it is wider than high, the picture is turned first.
    """
    out = np.zeros(SIZE, dtype=np.float32)
    darkness = np.maximum(np.float32(_BODY_LEVEL) - image, 0)
    mass = darkness.sum()
    if not mass:
        return out
    (y, height), (x, width) = (_moments(darkness.sum(axis=axis) / mass) for axis in (1, 0))
    half = _REACH * max(height, width, 0.5)
    margin = int(np.ceil(half)) + 1
    padded = Image.fromarray(np.pad(image, margin, constant_values=255)).convert("F")
    window = (x + margin - half, y + margin - half, x + margin + half, y + margin + half)
    square = np.asarray(padded.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=window))
    waves = fft.dctn(square, norm="ortho")[:_COEFFICIENTS, :_COEFFICIENTS]
    waves = (waves.T if width > height else waves).ravel()[1:]  # without the mean, which is the brightness
    length = np.linalg.norm(waves)
    if length:
        out[:-1] = waves / length
    out[-1] = abs(np.log(max(height, 0.5) / max(width, 0.5)))
    return out


def same_pictures(prints: NDArray[np.float32], similarity: float = SAME_PICTURE) -> list[list[int]]:
    """Groups of crops (numbers from 0) whose fingerprints (N, 256) correlate in one of the 8 symmetries.

    Compared in blocks along the sorted aspects, so memory stays bounded and only bodies of one form meet.
    """
    known = np.flatnonzero(np.abs(prints[:, :-1]).sum(axis=1) > 0)
    order = known[np.argsort(prints[known, -1], kind="stable")]
    ordered = prints[order]
    groups: list[list[int]] = []
    for start in range(0, len(order), _BLOCK):
        block = ordered[start : start + _BLOCK]
        others = ordered[start : int(np.searchsorted(ordered[:, -1], block[-1, -1] + _ASPECT, side="right"))]
        alike = _mirrored_similarity(block[:, :-1], others[:, :-1]) >= similarity
        if 2 * block[0, -1] <= _ASPECT:  # a body nearly as wide as high may be turned either way
            alike |= _mirrored_similarity(block[:, :-1], others[:, :-1][:, _TURNED]) >= similarity
        first, second = np.nonzero(np.triu(alike, 1))
        close = np.abs(block[first, -1] - others[second, -1]) <= _ASPECT
        pairs = np.column_stack((first[close], second[close]))
        groups += [order[start:][group].tolist() for group in connected(pairs)]
    return merged(groups)


def _moments(profile: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of a distribution over pixels, in pixels from the edge."""
    places = np.arange(len(profile)) + 0.5
    mean = float((profile * places).sum())
    return mean, float(np.sqrt((profile * (places - mean) ** 2).sum()))


def _mirrored_similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest correlation (M, N) over the four mirrorings, from the four sums whose signs these change."""
    sums = [one[:, parity] @ other[:, parity].T for parity in _PARITIES]
    best = np.full(sums[0].shape, -1, dtype=np.float32)
    for signs in _MIRRORINGS:
        np.maximum(best, sum(sign * each for sign, each in zip(signs, sums, strict=True)), out=best)
    return best
