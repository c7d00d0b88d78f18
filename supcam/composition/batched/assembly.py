"""Many growing clusters at once: blended bodies with their members."""

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from supcam.composition.batched.contact import code, meetings, touches
from supcam.composition.batched.masks import Bodies, count, window
from supcam.composition.contact import Fault
from supcam.composition.masks import WHITE
from supcam.composition.seams import MOST_HIDDEN
from supcam.settings import ComposeSettings


def blend(first: Tensor, second: Tensor, floor: Tensor) -> Tensor:
    """Grey values of two transparencies in one light path, as ``supcam.composition.assembly.blend``: uint8."""
    product = (first.int() * second.int() + WHITE // 2) // WHITE
    darker = torch.minimum(first, second)
    return torch.maximum(product.to(torch.uint8), torch.minimum(darker, floor))


@dataclass(frozen=True)
class Seams:
    """Pixels of the clearest touch of N bodies: ``points`` (N, K, 2) int64 and which of them are ``known`` (N, K)."""

    points: Tensor
    known: Tensor

    def take(self, rows: Tensor | slice) -> "Seams":
        """The seams of these rows."""
        return Seams(self.points[rows], self.known[rows])

    def lies_below(self, halo: Tensor, corner: Tensor) -> Tensor:
        """(N, K) bool: which pixels lie in ``halo`` (N, S, S), whose first pixel is at ``corner`` of their frame."""
        place = self.points - corner[:, None]
        inside = self.known & ((place >= 0) & (place < halo.shape[1])).all(2)
        flat = (place[:, :, 0] * halo.shape[1] + place[:, :, 1]).where(inside, 0)
        return halo.flatten(1).gather(1, flat) & inside


@dataclass(frozen=True)
class Assemblies:
    """N clusters under construction: ``body`` on frames of K pixels, ``offsets`` (N, M, 2) of the M members placed."""

    body: Bodies
    offsets: Tensor

    @classmethod
    def start(cls, bodies: Bodies, side: int) -> "Assemblies":
        """Assemblies of one source each, on frames of ``side`` pixels."""
        corner = torch.zeros((len(bodies.halo), 2), dtype=torch.int64, device=bodies.halo.device)
        # Copies all over: assemblies are written to as they grow, their first members are not.
        figures = ("halo_area", "core_area", "width", "single", "cut", "box")
        body = replace(
            bodies,
            **{name: getattr(bodies, name).clone() for name in figures},
            image=window(bodies.image, corner, side, WHITE),
            tail=window(bodies.tail, corner, side, WHITE),
            halo=window(bodies.halo, corner, side, False),
            core=window(bodies.core, corner, side, False),
        )
        return cls(body, corner[:, None])

    def take(self, rows: Tensor) -> "Assemblies":
        """The assemblies of these rows."""
        return Assemblies(self.body.take(rows), self.offsets[rows])

    def relation_to(
        self, members: list[Bodies], other: Bodies, offset: Tensor, settings: ComposeSettings, strict: Tensor
    ) -> Tensor:
        """(N,) relation bits of ``other`` at ``offset`` with all members, or the code of the first fault."""
        bits = torch.zeros(len(offset), dtype=torch.int64, device=offset.device)
        fault = bits.clone()
        for place, member in enumerate(members):
            found = meetings(member, other, offset - self.offsets[:, place], settings, strict)
            refused = (found < 0) & (found != code(Fault.APART))
            fault = torch.where(refused & (fault == 0), found, fault)
            bits |= found.clamp(min=0)
        return torch.where(fault < 0, fault, torch.where(bits > 0, bits, code(Fault.APART)))

    def shows_touch(self, members: list[Bodies], other: Bodies, offset: Tensor, seams: list[Seams]) -> Tensor:
        """(N,) bool: whether a touch shows with ``other`` at ``offset``, as ``Assembly.shows_touch`` tells.

        ``seams`` are those of the members and of ``other``.
        """
        bodies, corners = [*members, other], [*self.offsets.unbind(1), offset]
        shows = torch.zeros(len(offset), dtype=torch.bool, device=offset.device)
        for number, seam in enumerate(seams):
            below = torch.zeros_like(seam.known)
            for place, body in enumerate(bodies):
                if place != number:
                    below |= seam.lies_below(body.halo, corners[place] - corners[number])
            shows |= _clear_enough(seam.known.sum(1), below.sum(1))
        rest = (~shows).nonzero()[:, 0]
        bodies, corners = [body.take(rest) for body in bodies], [corner[rest] for corner in corners]
        for first, second in combinations(range(len(bodies)), 2):
            met = touches(bodies[first], bodies[second], corners[second] - corners[first])
            below = torch.zeros_like(met)
            for place, body in enumerate(bodies):
                if place not in (first, second):
                    below |= window(body.halo, corners[second] - corners[place], met.shape[1], False)
            shows[rest] |= _clear_enough(count(met), count(met & below))
        return shows

    def joined(self, other: Bodies, offset: Tensor, settings: ComposeSettings, floor: Tensor) -> "Assemblies":
        """These assemblies with ``other`` blended in; frames keep their size, their first pixel moves where needed."""
        side = self.body.halo.shape[1]
        corner = offset.clamp(max=0)
        here, there = corner, corner - offset
        images, tails = (
            (window(getattr(self.body, name), here, side, WHITE), window(getattr(other, name), there, side, WHITE))
            for name in ("image", "tail")
        )
        halo, core = (
            window(getattr(self.body, name), here, side, False) | window(getattr(other, name), there, side, False)
            for name in ("halo", "core")
        )
        tail = blend(*tails, floor[:, None, None])
        image = tail.where((images[0] != WHITE) | (images[1] != WHITE), WHITE)
        core |= (image < settings.core_level) & halo
        boxes = [body.box - at.repeat(1, 2) for body, at in ((self.body, here), (other, there))]
        ends = torch.maximum(*boxes)[:, 2:]
        body = Bodies(
            image,
            tail,
            halo,
            core,
            count(halo),
            count(core),
            torch.minimum(self.body.width, other.width),
            torch.zeros_like(other.single),
            self.body.cut | other.cut,
            torch.cat((torch.minimum(*boxes)[:, :2], ends), 1),
        )
        return Assemblies(body, torch.cat((self.offsets, offset[:, None]), 1) - corner[:, None])


def _clear_enough(points: Tensor, below: Tensor) -> Tensor:
    return (points > 0) & (below <= MOST_HIDDEN * points)
