"""Bodies in a mask: connected regions, their sizes and thicknesses, in numpy alone (the client has no SciPy)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .robust import median_of, share_of

Mask = NDArray[np.bool_]

# A drawn thing (bar, letter, rectangle) has one grey value; no photographed chromosome has.
_FLAT_SPREAD, _FLAT_SHARE = 6, 0.8


@dataclass(frozen=True)
class Regions:
    """The 8-connected regions of a mask (H, W), in the order of their first pixels.

    Attributes:
        labels: (H, W); 0 outside, k for region k - 1.
        areas: (n,), pixels.
        runs: Row, first column, last column and region of each run of pixels, (4, m).
    """

    labels: NDArray[np.intp]
    areas: NDArray[np.intp]
    runs: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.areas)

    @cached_property
    def boxes(self) -> NDArray[np.intp]:
        """First row, first column, last row, last column of each region, (n, 4)."""
        rows, first, last, region = self.runs
        boxes = np.empty((len(self), 4), dtype=np.intp)
        boxes[:, :2], boxes[:, 2:] = max(self.labels.shape), -1
        for place, (bound, values) in enumerate(
            ((np.minimum, rows), (np.minimum, first), (np.maximum, rows), (np.maximum, last))
        ):
            bound.at(boxes[:, place], region, values)
        return boxes

    def touching_edge(self) -> Mask:
        """Which regions reach an edge of the picture, (n,)."""
        lines = (self.labels[0], self.labels[-1], self.labels[:, 0], self.labels[:, -1])
        reaches = np.zeros(len(self) + 1, dtype=bool)
        reaches[np.concatenate(lines)] = True
        return reaches[1:]

    def cutout(self, index: int) -> tuple[tuple[slice, slice], Mask]:
        """Box of a region as rows and columns, and its pixels within that box."""
        top, left, bottom, right = self.boxes[index]
        box = slice(top, bottom + 1), slice(left, right + 1)
        return box, self.labels[box] == index + 1

    def mask(self, chosen: Mask) -> Mask:
        """Pixels of the regions with ``chosen`` (n,) true, (H, W)."""
        return np.concatenate([[False], chosen])[self.labels]


def connected_regions(mask: Mask) -> Regions:
    """Label the 8-connected regions of a mask (H, W).

    Works on runs of pixels along the rows, so the time grows with the length of the outlines, not with the area.
    """
    height, width = mask.shape
    # One empty column behind each row keeps runs, and contacts across a corner, from wrapping into the next row.
    stride = width + 1
    padded = np.zeros((height, stride), dtype=np.int8)
    padded[:, :width] = mask
    steps = np.diff(padded.ravel(), prepend=np.int8(0))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    root = _joined(*_contacts(starts, ends, stride), len(starts))
    region = (np.cumsum(root == np.arange(len(root))) - 1)[root]
    count = int(region.max()) + 1 if len(region) else 0
    lengths = ends - starts
    areas = np.bincount(region, weights=lengths, minlength=count).astype(np.intp)
    # Painting: the label rises at each start and falls back at each end.
    change = np.zeros(height * stride + 1, dtype=np.intp)
    change[starts] = region + 1
    change[ends] = -(region + 1)
    labels = np.cumsum(change[:-1]).reshape(height, stride)[:, :width]
    rows, columns = np.divmod(starts, stride)
    return Regions(labels, areas, np.stack([rows, columns, columns + lengths - 1, region]))


def is_flat(values: NDArray[np.uint8] | NDArray[np.float32]) -> bool:
    """Whether values (n,) are those of a drawing: nearly all of one grey level."""
    return share_of(np.abs(values - np.float32(median_of(values))) <= _FLAT_SPREAD) >= _FLAT_SHARE


def peeled_sizes(mask: Mask, limit: int = 64) -> list[int]:
    """Pixels of a mask (H, W) as it is and after each peeling of its outline, until nothing is left."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    mask = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    sizes: list[int] = []
    while len(sizes) < limit and (count := int(np.count_nonzero(mask))):
        sizes.append(count)
        # Crosses and squares in turn make the peeled ball nearly round.
        mask = eroded(mask, square=len(sizes) % 2 == 0)
    return sizes


def eroded(mask: Mask, *, square: bool = False) -> Mask:
    """Mask (H, W) without its outline; what reaches an edge of the picture is peeled there too."""
    return ~dilated(~mask, square=square)


def dilated(mask: Mask, *, square: bool = True) -> Mask:
    """Mask (H, W) dilated by one pixel: to all eight neighbours when ``square``, else to the four sides."""
    # Several times as fast as scipy's binary_dilation; composition calls it for every shift that is tried.
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    source = out.copy() if square else mask
    out[:, 1:] |= source[:, :-1]
    out[:, :-1] |= source[:, 1:]
    return out


def _contacts(
    starts: NDArray[np.intp], ends: NDArray[np.intp], stride: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of runs in neighbouring rows that touch, corners included."""
    low = np.searchsorted(ends + stride, starts, side="left")
    high = np.searchsorted(starts + stride, ends, side="right")
    counts = np.maximum(high - low, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    offsets = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts)
    return below, np.repeat(low, counts) + offsets


def _joined(one: NDArray[np.intp], other: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The smallest member of each run's group, groups being what the pairs connect."""
    root = np.arange(count)
    while True:
        first, second = root[one], root[other]
        apart = first != second
        if not apart.any():
            return root
        one, other, first, second = one[apart], other[apart], first[apart], second[apart]
        lower = np.minimum(first, second)
        np.minimum.at(root, first, lower)
        np.minimum.at(root, second, lower)
        while True:  # shorten the chains, else long winding bodies would take a round for each row
            shorter = root[root]
            if (shorter == root).all():
                break
            root = shorter
