"""Clusters of an outlined picture: its connected regions, and which chromosomes meet in each."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from supcam.data.groups import merged
from supcam.data.mask_rule import (
    EIGHT,
    GRID,
    SHARED,
    USED,
    Cluster,
    Mask,
    Overlap,
    Owners,
    Pair,
    contact_lengths,
    overlap_of,
)
from supcam.serving.bodies import dilated
from supcam.serving.reading import mean_width

Box = tuple[slice, slice]

# Width of the chromosomes on which the thresholds were chosen, pixels.
USUAL_WIDTH = 11
# Share of the values that lie in several places of a picture, from which on values name classes: there each value is
# two chromosomes, else every place is one.
_MANY_TWICE = 0.2
# A class is elsewhere in the picture too when it has this share of a chromosome there.
_ELSEWHERE = 0.3
# Too small for a chromosome, in areas of the picture's middle region.
_SPECK = 0.1
_LEAST_SHARE = min(point.share for point in GRID)
# Between the shares at which one piece is one chromosome and two: what nothing decides is uncertain.
_UNKNOWN_SHARE = (_LEAST_SHARE + USED.share) / 2


@dataclass(frozen=True)
class Outlined:
    """One picture's chromosomes.

    Attributes:
        owners: (H, W) numbers of chromosomes, or of their classes; ``SHARED`` where several lie on each other.
        bodies: box and mask of each chromosome, in the order of their numbers from 1, where each was outlined by
            itself; None for a label map, of which only ``owners`` is known.
    """

    owners: Owners
    bodies: Sequence[tuple[Box, Mask]] | None = None


@dataclass(frozen=True)
class Region:
    """A connected region of a picture.

    Attributes:
        number: its place in scipy's order, from 1.
        box: rows and columns of the picture that it spans.
        owners: the picture's owners in that box, 0 outside the region.
    """

    number: int
    box: Box
    owners: Owners

    @cached_property
    def mask(self) -> Mask:
        """Its pixels, in its box."""
        mask: Mask = self.owners != 0
        return mask

    @cached_property
    def area(self) -> int:
        """Number of its pixels."""
        return int(np.count_nonzero(self.owners))

    @cached_property
    def values(self) -> list[int]:
        """Numbers of its chromosomes, or of their classes, in rising order."""
        return [int(value) for value in np.unique(self.owners) if value > 0]


def outlined_bodies(bodies: Sequence[tuple[Box, Mask]], shape: tuple[int, int]) -> Outlined:
    """A picture (H, W) from chromosomes that were outlined one by one."""
    owners = np.zeros(shape, dtype=np.int32)
    for number, (box, mask) in enumerate(bodies, 1):
        part = owners[box]
        part[mask] = np.where(part[mask] == 0, number, SHARED)
    return Outlined(owners, bodies)


def regions_of(owners: Owners) -> list[Region]:
    """The 8-connected regions of the chromosomes, in scipy's order."""
    labels, _ = ndimage.label(owners != 0, EIGHT)
    boxes = ndimage.find_objects(labels)
    return [Region(number, box, np.where(labels[box] == number, owners[box], 0)) for number, box in enumerate(boxes, 1)]


def left_out(region: Region, regions: Sequence[Region], shape: tuple[int, int]) -> str | None:
    """Why a region makes no crop, or None: cut off by an edge of the picture, a speck, or an overlap of nothing."""
    rows, columns = region.box
    if 0 in (rows.start, columns.start) or rows.stop == shape[0] or columns.stop == shape[1]:
        return "objects cut off by an edge of the picture"
    if not region.values:
        return "overlaps without a chromosome"
    if region.area < _SPECK * median(other.area for other in regions):
        return "specks in the masks"
    return None


def width_factor(regions: Sequence[Region]) -> int:
    """How many times wider than ``USUAL_WIDTH`` the chromosomes of a picture are, at least 1."""
    width = median(mean_width(region.mask) for region in regions)
    return max(1, round(width / USUAL_WIDTH))


@dataclass
class Classes:
    """What all label maps of a source say about the values they use.

    Attributes:
        places: for each picture, in how many regions of it each value lies.
        singles: picture, value and area of each region of one value.
        totals: for each picture, the pixels of each value.
    """

    places: dict[str, Counter[int]] = field(default_factory=dict)
    singles: list[tuple[str, int, int]] = field(default_factory=list)
    totals: dict[str, Counter[int]] = field(default_factory=dict)

    def add(self, picture: str, regions: Sequence[Region], shape: tuple[int, int]) -> None:
        """Note the values of a picture."""
        places, totals = self.places[picture], self.totals[picture] = Counter[int](), Counter[int]()
        for region in regions:
            places.update(region.values)
            for value in region.values:
                totals[value] += int(np.count_nonzero(region.owners == value))
            if len(region.values) == 1 and left_out(region, regions, shape) is None:
                self.singles.append((picture, region.values[0], region.area))

    def name_classes(self) -> bool:
        """Whether a value names a class, of which a cell has two, and not one chromosome."""
        counts = [count for places in self.places.values() for count in places.values()]
        return sum(count > 1 for count in counts) > _MANY_TWICE * len(counts)

    def usual_areas(self) -> dict[str, dict[int, float]]:
        """Usual area of one chromosome of each class in each picture, where two regions or more show it.

        Pictures differ in magnification and condensation, so areas are compared after scaling each picture to its
        median; three rounds are enough for both medians to settle.
        """
        scale = dict.fromkeys(self.places, 1.0)
        usual: dict[int, float] = {}
        for _ in range(3):
            by_class, by_picture = defaultdict(list), defaultdict(list)
            for picture, value, area in self.singles:
                by_class[value].append(area / scale[picture])
            usual = {value: median(areas) for value, areas in by_class.items()}
            for picture, value, area in self.singles:
                by_picture[picture].append(area / usual[value])
            scale |= {picture: median(shares) for picture, shares in by_picture.items()}
        seen = Counter(value for _, value, _ in self.singles)
        return {
            picture: {value: factor * area for value, area in usual.items() if seen[value] > 1}
            for picture, factor in scale.items()
        }


def cluster_of_bodies(region: Region, bodies: Sequence[tuple[Box, Mask]]) -> Cluster:
    """The cluster of a region whose chromosomes were outlined one by one."""
    inside = [number for number, (box, mask) in enumerate(bodies, 1) if _within(box, mask, region)]
    overlaps = [
        overlap_of(shared, pair)
        for pair in combinations(inside, 2)
        for shared in _common(bodies[pair[0] - 1], bodies[pair[1] - 1])
    ]
    return _cluster(region.owners, inside, overlaps, {})


def cluster_of_values(region: Region) -> Cluster:
    """The cluster of a region of a label map whose every value is one chromosome."""
    return _cluster(region.owners, region.values, shared_regions(region.owners), {})


def cluster_of_classes(region: Region, totals: Mapping[int, int], usual: Mapping[int, float]) -> Cluster:
    """The cluster of a region whose values name classes; arguments as :func:`tell_homologues`."""
    owners, shares = tell_homologues(region, totals, usual)
    numbers = [int(number) for number in np.unique(owners) if number > 0]
    return _cluster(owners, numbers, shared_regions(owners), shares)


def tell_homologues(
    region: Region, totals: Mapping[int, int], usual: Mapping[int, float]
) -> tuple[Owners, dict[int, float]]:
    """The owners of a region with a number for each chromosome; two homologues of a class are distinguished by area.

    Where a class lies in this region alone, and on an area of more than one chromosome, its pieces are two
    chromosomes; pieces on both sides of an overlap are arms of one.

    Args:
        region: Of a label map whose values name classes.
        totals: Pixels of each class in the whole picture.
        usual: Area of one chromosome of each class in this picture, where known.

    Returns:
        Owners, and the area, in usual areas, of what may be both homologues in one piece.
    """
    owners = region.owners.copy()
    shared, _ = ndimage.label(owners == SHARED, EIGHT)
    beside = [(np.count_nonzero(mask), near) for mask, near in _shared_masks(owners)]
    shares: dict[int, float] = {}
    for value in region.values:
        own = int(np.count_nonzero(owners == value))
        if totals[value] - own >= _ELSEWHERE * usual.get(value, own):
            continue
        # A pixel that several classes share is divided among them.
        area = own + sum(size / len(near) for size, near in beside if value in near)
        share = area / usual[value] if value in usual else _UNKNOWN_SHARE
        if share < _LEAST_SHARE:
            continue
        groups = _unlinked(owners == value, shared)
        if len(groups) == 1:
            shares[value] = share
        else:
            second = int(owners.max()) + 1
            for group in groups[1:]:
                owners[group] = second
    return owners, shares


def _cluster(
    owners: Owners, numbers: Sequence[int], overlaps: Sequence[Overlap], shares: Mapping[int, float]
) -> Cluster:
    contacts: Mapping[Pair, int] = contact_lengths(owners) if len(numbers) > 1 else {}
    return Cluster(tuple(numbers), contacts, tuple(overlaps), shares)


def shared_regions(owners: Owners) -> list[Overlap]:
    """Overlaps of a label map: each connected region of ``SHARED``, owned by all that lie around it."""
    return [overlap_of(region, around) for region, around in _shared_masks(owners)]


def _shared_masks(owners: Owners) -> Iterator[tuple[Mask, set[int]]]:
    labels, count = ndimage.label(owners == SHARED, EIGHT)
    for number in range(1, count + 1):
        region: Mask = labels == number
        yield region, {int(owner) for owner in np.unique(owners[dilated(region)]) if owner > 0}


def whole_chromosomes(owners: Owners) -> list[Mask]:
    """The chromosomes of a label map (H, W) one by one; each has all of the overlaps that it lies beside."""
    masks = {int(number): owners == number for number in np.unique(owners) if number > 0}
    for region, around in _shared_masks(owners):
        for number in around:
            masks[number] |= region
    return list(masks.values())


def _unlinked(pieces: Mask, shared: NDArray[np.int32]) -> list[Mask]:
    """Pieces of a class that no overlap joins, largest first."""
    labels, count = ndimage.label(pieces, EIGHT)
    grown = ndimage.grey_dilation(shared, footprint=EIGHT)  # where two overlaps meet at a piece, one is enough
    beside = [np.unique(labels[pieces & (grown == number)]).tolist() for number in np.unique(grown[pieces]) if number]
    masks = [np.isin(labels, group) for group in merged([*([number] for number in range(1, count + 1)), *beside])]
    return sorted(masks, key=np.count_nonzero, reverse=True)


def _within(box: Box, mask: Mask, region: Region) -> bool:
    """Whether a body belongs to a region: all of its pixels do, or none."""
    row, column = np.argwhere(mask)[0] + (box[0].start - region.box[0].start, box[1].start - region.box[1].start)
    height, width = region.mask.shape
    return 0 <= row < height and 0 <= column < width and bool(region.mask[row, column])


def _common(one: tuple[Box, Mask], other: tuple[Box, Mask]) -> Iterator[Mask]:
    """Connected regions that two bodies share."""
    (rows, columns), (other_rows, other_columns) = one[0], other[0]
    top, bottom = max(rows.start, other_rows.start), min(rows.stop, other_rows.stop)
    left, right = max(columns.start, other_columns.start), min(columns.stop, other_columns.stop)
    if top >= bottom or left >= right:
        return
    parts = [
        mask[top - box[0].start : bottom - box[0].start, left - box[1].start : right - box[1].start]
        for box, mask in (one, other)
    ]
    labels, count = ndimage.label(parts[0] & parts[1], EIGHT)
    for number in range(1, count + 1):
        yield labels == number
