"""The rule that gives a cluster its type from the masks of its chromosomes (docs/masks.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from supcam.cluster_type import ClusterType

Mask = NDArray[np.bool_]
Owners = NDArray[np.int32]  # (H, W): 0 background, SHARED where chromosomes overlap, else the number of the chromosome
Pair = tuple[int, int]

EIGHT = np.ones((3, 3), dtype=bool)
SHARED = -1


@dataclass(frozen=True)
class Thresholds:
    """From where on two chromosomes touch or overlap; pixels where chromosomes are about 11 pixels wide.

    Attributes:
        contact: pixels of the one that lie beside the other.
        area: pixels of an overlap.
        depth: largest distance of a pixel of an overlap from its outside, half of its thickness.
        share: area of a class, in usual areas of one of its chromosomes, that makes it both homologues.
    """

    contact: int
    area: int
    depth: float
    share: float

    def scaled(self, factor: int) -> "Thresholds":
        """The same for chromosomes ``factor`` times as wide."""
        return Thresholds(self.contact * factor, self.area * factor**2, self.depth * factor, self.share)


USED = Thresholds(contact=3, area=15, depth=2.0, share=1.65)
# A label is certain when no combination of these changes the type.
GRID = tuple(
    Thresholds(contact, area, depth, share)
    for contact, (area, depth), share in product((3, 5), ((6, 0.0), (15, 2.0), (30, 2.5)), (1.5, 1.8))
)


@dataclass(frozen=True)
class Overlap:
    """One region in which chromosomes lie on each other; ``owners`` are their numbers."""

    area: int
    depth: float
    owners: frozenset[int]


@dataclass(frozen=True)
class Cluster:
    """Chromosomes of one connected region and how they meet.

    Attributes:
        chromosomes: their numbers.
        contacts: pixels of contact of two chromosomes, for each pair in rising order that has any.
        overlaps: regions covered twice.
        shares: for what may be both homologues of a class in one piece, its area in usual areas of that class.
    """

    chromosomes: tuple[int, ...]
    contacts: Mapping[Pair, int]
    overlaps: tuple[Overlap, ...]
    shares: Mapping[int, float]


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a cluster: type, whether it is the same over the whole grid, number of chromosomes."""

    type: ClusterType
    certain: bool
    count: int


def judge(cluster: Cluster, factor: int = 1) -> Verdict:
    """Type of a cluster whose chromosomes are ``factor`` times 11 pixels wide."""
    used = USED.scaled(factor)
    kind, joined = _type_at(cluster, used)
    certain = joined and not _folded(cluster, used)
    certain = certain and all(_type_at(cluster, point.scaled(factor)) == (kind, True) for point in GRID)
    count = len(cluster.chromosomes) + sum(share >= used.share for share in cluster.shares.values())
    if count > 1 and kind == ClusterType.INSTANCE:  # they meet in less than a contact
        kind = ClusterType.TOUCHING
    return Verdict(kind, certain, count)


def _type_at(cluster: Cluster, at: Thresholds) -> tuple[ClusterType, bool]:
    """Type at one point of the grid, and whether its contacts and overlaps join all chromosomes."""
    contacts = dict(cluster.contacts)
    overlapping: set[Pair] = set()
    for overlap in cluster.overlaps:
        for pair in combinations(sorted(overlap.owners), 2):
            if _counts(overlap, at):
                overlapping.add(pair)
            else:  # too thin for an overlap, it is where the outlines meet
                contacts[pair] = contacts.get(pair, 0) + overlap.area
    touching = {pair for pair, length in contacts.items() if length >= at.contact} - overlapping
    touch, overlap_bit = bool(touching), bool(overlapping)
    for chromosome, share in cluster.shares.items():
        if share >= at.share:
            crossed = any(overlap.owners == {chromosome} and _counts(overlap, at) for overlap in cluster.overlaps)
            touch, overlap_bit = touch or not crossed, overlap_bit or crossed
    joined = _all_joined(cluster.chromosomes, touching | overlapping)
    return ClusterType(touch + 2 * overlap_bit), joined


def _counts(overlap: Overlap, at: Thresholds) -> bool:
    return overlap.area >= at.area and overlap.depth >= at.depth


def _folded(cluster: Cluster, at: Thresholds) -> bool:
    """Whether one chromosome lies on itself, which looks like an overlap of two."""
    return any(
        len(overlap.owners) == 1 and _counts(overlap, at) and not overlap.owners & cluster.shares.keys()
        for overlap in cluster.overlaps
    )


def _all_joined(chromosomes: Iterable[int], pairs: Iterable[Pair]) -> bool:
    groups = [{chromosome} for chromosome in chromosomes]
    for pair in pairs:
        met = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if not group & set(pair)] + [set().union(*met)]
    return len(groups) <= 1


def contact_lengths(owners: Owners) -> dict[Pair, int]:
    """Pixels of contact for each pair that has any: those of the one beside the other, the smaller of both counts."""
    height, width = owners.shape
    base = int(owners.max()) + 1
    found = []
    padded = np.pad(owners, 1)
    for row, column in product((0, 1, 2), repeat=2):
        other = padded[row : row + height, column : column + width]
        beside = (owners > 0) & (other > 0) & (owners != other)
        found.append(np.flatnonzero(beside) * base + other[beside])
    pixels, other = np.divmod(np.unique(np.concatenate(found)), base)
    pairs, counts = np.unique(np.stack([owners.ravel()[pixels], other]), axis=1, return_counts=True)
    one_sided = {(int(one), int(two)): int(count) for (one, two), count in zip(pairs.T, counts, strict=True)}
    return {(one, two): min(count, one_sided[two, one]) for (one, two), count in one_sided.items() if one < two}


def overlap_of(region: Mask, owners: Iterable[int]) -> Overlap:
    """An overlap from its region (H, W)."""
    depth = float(ndimage.distance_transform_edt(np.pad(region, 1)).max())
    return Overlap(int(np.count_nonzero(region)), depth, frozenset(owners))
