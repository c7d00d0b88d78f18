"""Every integer shift at once: how much two bodies would share, by exact cross-correlation of their masks."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from supcam.cluster_type import Relation
from supcam.composition.masks import Body, Mask
from supcam.serving.bodies import dilated
from supcam.settings import ComposeSettings

# Two bars cross in the product of their widths or more; with less shared, neither is split. Measured over 4,000
# placements of drawn and real crops: below 0.8 one in 1,000 reads as a crossing, from 1 to 1.2 one in 20, above 1.4
# every second.
LEAST_CROSSING = 1.2
NEAR = 10  # grey levels above the core level at which a halo may still hide the edge of a body
SINGLE = 2**20  # entries up to which single precision keeps counts within half a pixel

Counts: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Shifts:
    """Admissible shifts (N, 2) of the second body's top left corner against the first one's, as (row, column).

    ``edges`` (N,) are their cumulative weights, ending at 1.
    """

    offsets: NDArray[np.int64]
    edges: NDArray[np.float64]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """One of the shifts, by weight."""
        row, column = self.offsets[min(int(np.searchsorted(self.edges, rng.random(), "right")), self.edges.size - 1)]
        return int(row), int(column)


def correlate(first: NDArray[np.float32], second: NDArray[np.float32]) -> Counts:
    """Shared pixels of K mask pairs, (K, H1, W1) with (K, H2, W2), for each shift: (K, H1 + H2 - 1, W1 + W2 - 1).

    Entry (r, c) holds the sum over ``first[y, x] * second[y - dy, x - dx]`` with ``dy = r - (H2 - 1)`` and
    ``dx = c - (W2 - 1)``. Counts come back within 0.5 of the exact integer; large frames take double precision for it.
    """
    rows = first.shape[1] + second.shape[1] - 1
    columns = first.shape[2] + second.shape[2] - 1
    size = (fft.next_fast_len(rows, real=True), fft.next_fast_len(columns, real=True))
    if rows * columns > SINGLE:
        first, second = first.astype(np.float64), second.astype(np.float64)
    # Correlation is convolution with the mirrored mask: a product of spectra, for every shift at once.
    spectrum = fft.rfft2(first, size, overwrite_x=True)
    spectrum *= fft.rfft2(second[:, ::-1, ::-1], size)
    counts: Counts = fft.irfft2(spectrum, size, overwrite_x=True)[:, :rows, :columns]
    return counts


def admissible(first: Body, second: Body, relation: Relation, settings: ComposeSettings) -> Shifts:
    """All shifts at which ``second`` meets ``first`` in ``relation`` as far as shared areas show.

    touch: cores neither share nor adjoin (see ``touch_guards``), the halo of one dilated by a pixel meets the other
    in ``min_contact`` pixels or more, the haloes share little. overlap and both: the cores share the set part of the
    smaller one.
    """
    fits, weights = (_touch_map if relation is Relation.TOUCH else _overlap_map)(first, second, settings)
    kept = np.flatnonzero(fits)
    offsets = np.column_stack(np.divmod(kept, fits.shape[1])) - (np.array(second.halo.shape) - 1)
    if np.add(first.halo.shape, second.halo.shape).max() > settings.canvas:
        inside = _within_canvas(offsets, first.halo.shape, second.halo.shape, settings.canvas)
        kept, offsets = kept[inside], offsets[inside]
    edges = np.cumsum(weights.ravel()[kept] if weights is not None else np.ones(kept.size))
    return Shifts(offsets, edges / edges[-1] if edges.size else edges)


def touch_guards(first: Body, second: Body, settings: ComposeSettings) -> tuple[Mask, Mask]:
    """What of two touching sources must share no pixel: one core dilated by a pixel, and all near the other's level.

    A body can reach a pixel beyond its core, faintly darker than the rest of the halo, so cores that adjoin may hide
    bodies that share a pixel. Crops cut at a dark level have no room for that pixel: real ones lie closer.
    """
    if first.cut or second.cut:
        return first.core, second.core
    return dilated(first.core), second.core | (second.halo & (second.image < settings.core_level + NEAR))


def least_shared(first: Body, second: Body) -> int:
    """Halo pixels that touching sources share at least: one, so that haloes that only adjoin do not count as met.

    Turning moves an outline by up to half a pixel, so masks that adjoin may lie a pixel apart in truth. Crops cut at a
    dark level have no halo to share.
    """
    return 0 if first.cut or second.cut else 1


def _touch_map(first: Body, second: Body, settings: ComposeSettings) -> tuple[Mask, NDArray[np.float64]]:
    guard, other_guard = touch_guards(first, second, settings)
    cores, haloes, contact = correlate(
        np.stack((guard, first.halo, first.dilated)).astype(np.float32),
        np.stack((other_guard, second.halo, second.halo)).astype(np.float32),
    )
    most = min(settings.max_halo_overlap, settings.max_halo_overlap_share * min(first.halo_area, second.halo_area))
    fits = (cores < 0.5) & (haloes < most + 0.5) & (contact > settings.min_contact - 0.5)
    fits &= haloes > least_shared(first, second) - 0.5
    weights = np.zeros(fits.shape)
    # Counted pixels are whole numbers: rounding keeps the weights the same on every machine.
    weights[fits] = np.round(contact[fits].astype(np.float64)) ** settings.contact_power
    return fits, weights


def _overlap_map(first: Body, second: Body, settings: ComposeSettings) -> tuple[Mask, None]:
    shared = correlate(first.core[None].astype(np.float32), second.core[None].astype(np.float32))[0]
    smaller = min(first.core_area, second.core_area)
    low, high = settings.min_core_overlap_share * smaller, settings.max_core_overlap_share * smaller
    low = max(low, LEAST_CROSSING * first.width * second.width)
    # Half a pixel either way: counts come back with rounding errors that differ between machines.
    return (shared > np.ceil(low) - 0.5) & (shared < np.floor(high) + 0.5), None


def _within_canvas(
    offsets: NDArray[np.int64], first: tuple[int, ...], second: tuple[int, ...], canvas: int
) -> NDArray[np.bool_]:
    """Which shifts make a composite no larger than ``canvas`` pixels on either side."""
    ends = np.maximum(offsets + np.array(second), np.array(first))
    sides = ends - np.minimum(offsets, 0)
    fits: NDArray[np.bool_] = (sides <= canvas).all(axis=1)
    return fits
