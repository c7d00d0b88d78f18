"""Bodies laid over one another: Beer-Lambert blending, and the growing cluster with its members."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from supcam.cluster_type import Relation
from supcam.composition.contact import Fault, meeting, touch_points
from supcam.composition.masks import WHITE, Body, Grey, Mask, Points
from supcam.composition.seams import MOST_HIDDEN, lies_below
from supcam.settings import ComposeSettings


def blend(first: Grey, second: Grey, floor: int = 40) -> Grey:
    """Grey values of two transparencies in one light path: ``255 * (A / 255) * (B / 255)``, rounded.

    Optical densities add. White is the identity, the order does not matter, the result is never lighter than either
    and never pushed below ``floor`` (a scanner's black) unless a source is already darker there.
    """
    # Beer-Lambert: light passes one chromosome and then the other, so transmitted shares multiply. In whole numbers,
    # rounded half up: a blend must not depend on a machine's floating point.
    product = first.astype(np.uint32) * second
    dark = np.minimum(np.minimum(first, second), floor)
    return np.maximum(((product + WHITE // 2) // WHITE).astype(np.uint8), dark)


@dataclass(frozen=True)
class Member:
    """One source of an assembly and the (row, column) of its frame in the assembly's frame."""

    body: Body
    offset: tuple[int, int]


@dataclass(frozen=True)
class Assembly:
    """A cluster under construction: the blended body and the sources it was made of."""

    body: Body
    members: tuple[Member, ...]

    @classmethod
    def start(cls, body: Body) -> "Assembly":
        """An assembly of one source."""
        return cls(body, (Member(body, (0, 0)),))

    def relation_to(
        self, other: Body, offset: tuple[int, int], settings: ComposeSettings, *, strict: bool = False
    ) -> Relation | Fault:
        """How ``other`` would meet the members at ``offset``: the union over members, or the first fault."""
        bits = 0
        for member in self.members:
            step = (offset[0] - member.offset[0], offset[1] - member.offset[1])
            found = meeting(member.body, other, step, settings, strict=strict)
            if found is Fault.APART:
                continue
            if isinstance(found, Fault):
                return found
            bits |= found
        return Relation(bits) if bits else Fault.APART

    def shows_touch(self, other: Body, offset: tuple[int, int]) -> bool:
        """Whether a touch shows with ``other`` at ``offset``.

        It may lie within one source or between two, with no more than ``MOST_HIDDEN`` of it below further ones. Where
        it may lie in several places of a source, each of them must show.
        """
        placed = (*self.members, Member(other, offset))

        def shows(points: Points, owners: set[int]) -> bool:
            below = np.zeros(len(points), dtype=bool)
            for number, member in enumerate(placed):
                if number not in owners:
                    below |= lies_below(points - member.offset, member.body.halo)
            return len(points) > 0 and bool(np.count_nonzero(below) <= MOST_HIDDEN * len(points))

        return any(all(shows(points, owners) for points in places) for places, owners in _touches(placed))

    def joined(self, other: Body, offset: tuple[int, int], settings: ComposeSettings, floor: int) -> "Assembly":
        """This assembly with ``other`` blended in, on a frame that holds both; what was white in both stays white."""
        top, left = min(offset[0], 0), min(offset[1], 0)
        here, there = (-top, -left), (offset[0] - top, offset[1] - left)
        shape = tuple(
            max(start + size, begin + length)
            for start, size, begin, length in zip(here, self.body.halo.shape, there, other.halo.shape, strict=True)
        )
        tail = np.full(shape, WHITE, dtype=np.uint8)
        halo, core, white = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
        for body, corner in ((self.body, here), (other, there)):
            view = np.s_[corner[0] : corner[0] + body.halo.shape[0], corner[1] : corner[1] + body.halo.shape[1]]
            tail[view] = blend(tail[view], body.tail, floor)
            halo[view] |= body.halo
            core[view] |= body.core
            white[view] &= body.image == WHITE
        # The tail darkens what lies under it but is never drawn on white: no real crop has such a fringe.
        image = tail.copy()
        image[white] = WHITE
        # Haloes that add up can pass the core level; a later source must not take that for light background.
        core |= (image < settings.core_level) & halo
        members = tuple(Member(m.body, (m.offset[0] + here[0], m.offset[1] + here[1])) for m in self.members)
        width, cut = min(self.body.width, other.width), self.body.cut or other.cut
        body = Body(
            image, tail, halo, core, int(np.count_nonzero(halo)), int(np.count_nonzero(core)), width=width, cut=cut
        )
        return Assembly(body, (*members, Member(other, there)))

    def masks(self, halo_level: int) -> Mask:
        """(N + 1, H, W): where each of the N sources lies, then the core shared by two or more of them.

        A source lies where its halo is. Faint rims that add up can pass ``halo_level`` outside every halo: such pixels
        belong to the sources whose rim they are, so that the masks together are all that is darker than that level.
        """
        shape = self.body.halo.shape
        masks = np.zeros((len(self.members) + 1, *shape), dtype=bool)
        cores = np.zeros(shape, dtype=np.uint8)
        views = [
            tuple(slice(start, start + size) for start, size in zip(member.offset, member.body.halo.shape, strict=True))
            for member in self.members
        ]
        for mask, member, view in zip(masks, self.members, views, strict=False):
            mask[view] = member.body.halo
            cores[view] += member.body.core
        loose = (self.body.image < halo_level) & ~masks.any(axis=0)
        for mask, member, view in zip(masks, self.members, views, strict=False):
            mask[view] |= loose[view] & (member.body.image < WHITE)
        masks[-1] = cores >= 2
        return masks


def _touches(placed: Sequence[Member]) -> Iterator[tuple[list[Points], set[int]]]:
    """Where each touch may lie, as pixels of the assembly's frame, and the numbers of the members it belongs to."""
    for number, member in enumerate(placed):
        if member.body.seams:
            yield [seam + np.array(member.offset) for seam in member.body.seams], {number}
    for (number, first), (other, second) in combinations(enumerate(placed), 2):
        step = (second.offset[0] - first.offset[0], second.offset[1] - first.offset[1])
        yield [touch_points(first.body, second.body, step) + first.offset], {number, other}
