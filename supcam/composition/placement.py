"""Every integer shift at once: how much two bodies would share, by exact cross-correlation of their masks."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from supcam.cluster_type import Relation
from supcam.composition.masks import Body, Mask, dilate
from supcam.settings import ComposeSettings

Counts: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Shifts:
    """Admissible shifts (N, 2) of the second body's top left corner against the first one's, as (row, column)."""

    offsets: NDArray[np.int64]


def correlate(first: NDArray[np.float32], second: NDArray[np.float32]) -> Counts:
    """Shared pixels of K mask pairs, (K, H1, W1) with (K, H2, W2), for each shift: (K, H1 + H2 - 1, W1 + W2 - 1).

    Entry (r, c) holds the sum over ``first[y, x] * second[y - dy, x - dx]`` with ``dy = r - (H2 - 1)`` and
    ``dx = c - (W2 - 1)``. Counts below 2**22 come back within 0.5 of the exact integer in single precision.
    """
    rows = first.shape[1] + second.shape[1] - 1
    columns = first.shape[2] + second.shape[2] - 1
    size = (fft.next_fast_len(rows, real=True), fft.next_fast_len(columns, real=True))
    spectrum = fft.rfft2(first, size, overwrite_x=True)
    spectrum *= fft.rfft2(second[:, ::-1, ::-1], size)
    counts: Counts = fft.irfft2(spectrum, size, overwrite_x=True)[:, :rows, :columns]
    return counts


def admissible(first: Body, second: Body, relation: Relation, settings: ComposeSettings) -> Shifts:
    """All shifts at which ``second`` meets ``first`` in ``relation`` as far as areas tell.

    touch: cores share nothing, the halo of one grown by a pixel meets the other in ``min_contact`` pixels or more,
    the haloes share little. overlap and both: the cores share the set part of the smaller one.
    """
    fits = _touch_map(first, second, settings) if relation is Relation.TOUCH else _overlap_map(first, second, settings)
    offsets = np.argwhere(fits)
    offsets -= np.array(second.halo.shape) - 1
    return Shifts(_within_canvas(offsets, first.halo.shape, second.halo.shape, settings.canvas))


def _touch_map(first: Body, second: Body, settings: ComposeSettings) -> Mask:
    # Shifts at which only the grown rim meets lie one pixel outside the frame of `first`; bodies keep a rim of one.
    left = np.stack([first.core, first.halo, dilate(first.halo)]).astype(np.float32)
    right = np.stack([second.core, second.halo, second.halo]).astype(np.float32)
    cores, haloes, contact = correlate(left, right)
    most = min(settings.max_halo_overlap, settings.max_halo_overlap_share * min(first.halo_area, second.halo_area))
    fits: Mask = (cores < 0.5) & (haloes < most + 0.5) & (contact > settings.min_contact - 0.5)
    return fits


def _overlap_map(first: Body, second: Body, settings: ComposeSettings) -> Mask:
    shared = correlate(first.core[None].astype(np.float32), second.core[None].astype(np.float32))[0]
    smaller = min(first.core_area, second.core_area)
    fits: Mask = (shared >= settings.min_core_overlap_share * smaller) & (
        shared <= settings.max_core_overlap_share * smaller
    )
    return fits


def _within_canvas(
    offsets: NDArray[np.int64], first: tuple[int, ...], second: tuple[int, ...], canvas: int
) -> NDArray[np.int64]:
    """Keep the shifts whose composite is no larger than ``canvas`` pixels on either side."""
    ends = np.maximum(offsets + np.array(second), np.array(first))
    sides = ends - np.minimum(offsets, 0)
    kept: NDArray[np.int64] = offsets[(sides <= canvas).all(axis=1)]
    return kept
