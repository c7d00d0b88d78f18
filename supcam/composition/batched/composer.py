"""Composites of many plans at once: place, check and blend whole batches, asking again only for what failed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supcam.cluster_type import ClusterType, Relation
from supcam.composition.batched.assembly import Assemblies, Seams
from supcam.composition.batched.contact import FAULTS, code
from supcam.composition.batched.draws import MOST, Draws, Plans
from supcam.composition.batched.masks import Bodies, bounds, components, count, find_bodies, sizes, window, within
from supcam.composition.batched.placement import draw_shifts, shift_weights, signed
from supcam.composition.batched.uniform import key_of, keys, uniforms
from supcam.composition.batched.warp import Poses, Sheets
from supcam.composition.composer import LEAST_KEPT, MAX_MARGIN, Composer
from supcam.composition.contact import Fault
from supcam.composition.masks import MAX_PIECE, WHITE
from supcam.composition.placement import LEAST_CROSSING

_STEP = 32  # pixels by which frames grow: few sizes, so that batches are large
_PIXELS = {"cuda": 2**25, "cpu": 2**22}  # of all composites that are worked on at once
_OTHER_REASONS = (
    "no-sources",
    "no-admissible-shift",
    "other-relation",
    "speck",
    "pale",
    "fell-apart",
    "several-components",
)
_NO_SOURCES, _NO_SHIFT, _OTHER, _SPECK, _PALE, _FELL_APART, _SEVERAL = range(
    -1 - len(FAULTS), -1 - len(FAULTS) - len(_OTHER_REASONS), -1
)
REASONS = (*(fault.value for fault in FAULTS), *_OTHER_REASONS)


def reason_of(number: int) -> str:
    """The name of a negative code."""
    return REASONS[-1 - number]


@dataclass(frozen=True)
class Made:
    """Finished composites of one frame size.

    Attributes:
        places: (N,) int64 places among the plans.
        images: (N, K, K) uint8, each on the first pixels of its frame, white beyond.
        shapes: (N, 2) int64 height and width.
        types, relations: (N,) int64 ClusterType and Relation.
        rows: (N, 5) int64 places of the sources among the crops, -1 behind the last.
        matrices: (N, 5, 6) float64 affine data as ``Placed.matrix`` of each source.
    """

    places: Tensor
    images: Tensor
    shapes: Tensor
    types: Tensor
    relations: Tensor
    rows: Tensor
    matrices: Tensor


@dataclass(frozen=True)
class Missed:
    """Plans ``places`` (N,) of which nothing came, and the code (N,) of what failed last (see ``reason_of``)."""

    places: Tensor
    reasons: Tensor


class BatchComposer:
    """Composes like ``Composer`` on a device; the composite of a key depends on nothing else but the sources.

    Attributes:
        draws: Weights of the policy; ``draws.cells`` says what the cell numbers of plans mean.
    """

    def __init__(self, composer: Composer, device: torch.device | str) -> None:
        self.settings, self.device = composer.settings, torch.device(device)
        tone, homes = self.settings.max_tone_difference, composer.policy.homes
        self.draws = Draws(composer.policy, tone, self.device) if homes else None
        sources = [composer.sources[row] for row in composer.rows]

        def tensor(values: Sequence[object] | NDArray[Any], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(np.array(values), dtype=dtype, device=self.device)

        self._sheets = Sheets([source.sheet for source in sources], self.device)
        self._rows = tensor(composer.rows)
        self._types = tensor([composer.types[row] for row in composer.rows])
        self._floors = tensor([composer.floor_of(row) for row in composer.rows], torch.uint8)
        self._halo_areas = tensor([source.body.halo_area for source in sources])
        self._core_areas = tensor([source.body.core_area for source in sources])
        self._widths = tensor([source.width for source in sources], torch.float64)
        self._corners = tensor([source.body.corner for source in sources])
        self._margins = tensor([source.margin for source in sources]).clamp(max=MAX_MARGIN)
        self._greys = tensor([source.greys for source in sources], torch.bool)
        touching = [composer.seam_of(row) for row in composer.rows]
        longest = max((len(seam) for seam in touching if seam is not None), default=0)
        points, known = np.zeros((len(sources), longest, 2), np.int64), np.zeros((len(sources), longest), bool)
        for place, seam in enumerate(touching):
            if seam is not None:
                points[place, : len(seam)], known[place, : len(seam)] = seam, True
        self._seams = Seams(tensor(points), tensor(known, torch.bool))

    def compose(self, seed: int, numbers: Tensor, plans: Plans | None = None) -> Iterator[Made | Missed]:
        """Composites of ``numbers`` (B,) int64 under a seed of 64 bits, as they get done; what is missed comes last.

        ``places`` count the numbers. ``plans`` names cells and lengths; without it the policy draws them.
        """
        seeds = keys(key_of(seed, self.device), numbers.to(self.device))
        places = torch.arange(len(seeds), device=self.device)
        reasons = torch.full_like(places, _NO_SOURCES)
        if self.draws is None:
            yield Missed(places, reasons)
            return
        plans = plans or self.draws.plans(uniforms(keys(seeds, 0), Draws.PLAN_SLOTS))
        for attempt in range(self.settings.source_tries):
            if not len(places):
                return
            done = torch.zeros(len(seeds), dtype=torch.bool, device=self.device)
            for made in self._attempt(plans.take(places), keys(seeds[places], attempt + 1), reasons, places):
                done[made.places] = True
                yield made
            places = places[~done[places]]
        if len(places):
            yield Missed(places, reasons[places])

    def _attempt(self, plans: Plans, seeds: Tensor, reasons: Tensor, places: Tensor) -> Iterator[Made]:
        """One set of sources for each plan, in parts of one frame size and number of sources."""
        assert self.draws is not None
        rows, relations = self.draws.sources(plans, uniforms(keys(seeds, 0), Draws.SOURCE_SLOTS))
        poses = Poses.draw(uniforms(keys(seeds, 1), MOST * Poses.SLOTS).view(-1, Poses.SLOTS), self.settings.scale)
        frames = poses.frames(self._sheets.shapes[rows.flatten().clamp(min=0)]).view(-1, MOST, 2)
        frames = frames.where((rows >= 0)[:, :, None], 0)
        count = (rows >= 0).sum(1)
        crossing = (relations[:, 0] == Relation.TOUCH) | self._can_cross(rows[:, 0], rows[:, 1])
        reasons[places[~crossing]] = _NO_SHIFT
        unseen = (relations[:, 0] == Relation.OVERLAP) & self._shows_none(rows[:, 0], rows[:, 1])
        reasons[places[crossing & unseen]] = code(Fault.HIDDEN_TOUCH)
        crossing &= ~unseen
        sides = (frames.amax((1, 2)) + _STEP - 1) // _STEP * _STEP
        groups = (sides * (MOST + 1) + count).where(crossing, -1)
        for group in sorted(set(groups.tolist()) - {-1}):
            side, length = divmod(group, MOST + 1)
            inside = (groups == group).nonzero()[:, 0]
            for part in inside.split(max(1, _PIXELS[self.device.type] // (side * length) ** 2)):
                pose = poses.take((part[:, None] * MOST + torch.arange(length, device=self.device)).flatten())
                job = _Job(
                    rows[part, :length],
                    relations[part, : length - 1],
                    self.draws.targets[plans.cell[part]],
                    pose,
                    frames[part, :length],
                    keys(seeds[part], 2),
                    side,
                )
                yield self._composed(job, places[part], reasons)

    def _composed(self, job: "_Job", places: Tensor, reasons: Tensor) -> Made:
        """Compose a part; those that fail are left out of what is returned, their reason is noted."""
        bodies, seams, faults, data = self._warped(job)
        number, length = job.rows.shape
        reason = faults[:, 0].clone()
        assembly = Assemblies.start(bodies[0], job.side * length)
        offsets = torch.zeros((number, length, 2), dtype=torch.int64, device=self.device)
        kinds = self._types[job.rows]
        kind, bits, placed = kinds[:, 0].clone(), torch.zeros_like(places), torch.ones_like(places)
        for place in range(1, length):
            reason = torch.where((reason == 0) & (placed == place), faults[:, place], reason)
            rows = ((reason == 0) & (placed == place)).nonzero()[:, 0]
            members = [body.take(rows) for body in bodies[: place + 1]]
            so_far = Assemblies(assembly.body.take(rows), offsets[rows, :place])
            base = kind[rows] | kinds[rows, place]
            touches = [seam.take(rows) for seam in seams[: place + 1]]
            found, shift = self._placed(so_far, members, touches, job, rows, place, base)
            if place == 1:
                reason[rows] = found.clamp(max=0)
            fits = (found > 0).nonzero()[:, 0]
            rows = rows[fits]
            joined = so_far.take(fits).joined(
                members[-1].take(fits), shift[fits], self.settings, self._floors[job.rows[rows, place]]
            )
            assembly.body.put(rows, joined.body)
            offsets[rows, : place + 1] = joined.offsets
            kind[rows], bits[rows] = base[fits] | found[fits], bits[rows] | found[fits]
            placed[rows] += 1
        reason = torch.where((reason == 0) & (kind != job.targets), _OTHER, reason)
        kept = (reason == 0).nonzero()[:, 0]
        there = torch.arange(length, device=self.device) < placed[kept, None]
        images, shapes, corners = self._finished(assembly.body.take(kept), job.rows[kept], there)
        alone = (sizes(components(images < self.settings.halo_level)) > 0).sum(1) == 1
        reason[kept[~alone]] = _SEVERAL
        reasons[places] = reason
        rows = self._rows[job.rows[kept]].where(there, -1)
        matrices = self._matrices(data[kept], job.rows[kept], corners[:, None] - offsets[kept])
        extra = MOST - length
        return Made(
            places[kept[alone]],
            images[alone],
            shapes[alone],
            kind[kept[alone]],
            bits[kept[alone]],
            torch.nn.functional.pad(rows, (0, extra), value=-1)[alone],
            torch.nn.functional.pad(matrices, (0, 0, 0, extra))[alone],
        )

    def _shows_none(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether two sources of a touching type show no touch that a crossing could leave in sight."""
        known = self._seams.known.any(1)
        return ((self._types[first] | self._types[second]) & ClusterType.TOUCHING > 0) & ~(known[first] | known[second])

    def _can_cross(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether the least crossing of two sources is within the largest share allowed, at equal scales."""
        smaller = torch.minimum(self._core_areas[first], self._core_areas[second])
        least = LEAST_CROSSING * self._widths[first] * self._widths[second]
        return least <= self.settings.max_core_overlap_share * smaller

    def _warped(self, job: "_Job") -> tuple[list[Bodies], list[Seams], Tensor, Tensor]:
        """Bodies and seams of each place, (N, length) codes of those that do not serve (0 for others), affine data."""
        rows, shape = job.rows.flatten(), job.rows.shape
        data = job.poses.inverse(self._sheets.shapes[rows])
        frames = job.frames.flatten(0, 1)
        image, tail = self._sheets.warped(rows, data, frames, job.side)
        scale = job.poses.scale
        single = self._types[rows] == ClusterType.INSTANCE
        found = find_bodies(image, tail, frames, self._widths[rows] * scale, single, self.settings)
        faults = torch.zeros_like(rows)
        faults[found.halo_area < LEAST_KEPT * self._halo_areas[rows] * scale**2] = _FELL_APART
        faults[~single & (found.halo_area < (1.0 - MAX_PIECE) * count(image < self.settings.halo_level))] = _FELL_APART
        faults[found.core_area < self.settings.min_core_share * found.halo_area] = _PALE
        faults[found.halo_area < self.settings.min_pixels] = _SPECK
        seams = Seams(Poses.points(self._seams.points[rows], data), self._seams.known[rows])
        places = [slice(place, None, shape[1]) for place in range(shape[1])]
        of_place = [seams.take(place) for place in places]
        return [found.take(place) for place in places], of_place, faults.view(shape), data.view(*shape, 6)

    def _placed(
        self,
        assembly: Assemblies,
        members: list[Bodies],
        seams: list[Seams],
        job: "_Job",
        rows: Tensor,
        place: int,
        base: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Relation bits (or a code) and offset of the last of ``members`` against what the others have become."""
        other, side = members[-1], assembly.body.halo.shape[1]
        relation, target = job.relations[rows, place - 1], job.targets[rows]
        weights = shift_weights(assembly.body, other, relation, self.settings)
        result = torch.where(weights.flatten(1).any(1), 0, _NO_SHIFT)
        offset = torch.zeros((len(rows), 2), dtype=torch.int64, device=self.device)
        u = uniforms(keys(job.seeds[rows], place), self.settings.tries)
        open_rows = (result == 0).nonzero()[:, 0]
        for attempt in range(self.settings.tries):
            if not len(open_rows):
                break
            shift = signed(draw_shifts(weights[open_rows], u[open_rows, attempt]), side, job.side)
            found = assembly.take(open_rows).relation_to(
                [member.take(open_rows) for member in members[:-1]],
                other.take(open_rows),
                shift,
                self.settings,
                target[open_rows] == ClusterType.OVERLAPPING,  # elsewhere a touch nobody knows of changes nothing
            )
            asked, goal = relation[open_rows], target[open_rows]
            found = torch.where((found > 0) & (found & asked != asked), _OTHER, found)
            beyond = (base[open_rows] | found) & ~goal > 0
            found = torch.where((found > 0) & beyond, code(Fault.SECOND_CONTACT), found)
            crossed = (found > 0) & (found & Relation.OVERLAP > 0)
            doubtful = (crossed & ((base[open_rows] | found) & ClusterType.TOUCHING > 0)).nonzero()[:, 0]
            if len(doubtful):
                these = open_rows[doubtful]
                shows = assembly.take(these).shows_touch(
                    [member.take(these) for member in members[:-1]],
                    other.take(these),
                    shift[doubtful],
                    [seam.take(these) for seam in seams],
                )
                found[doubtful] = found[doubtful].where(shows, code(Fault.HIDDEN_TOUCH))
            result[open_rows], offset[open_rows] = found, shift
            open_rows = open_rows[found < 0]
        return result, offset

    def _finished(self, body: Bodies, rows: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images on their halo's box with the first source's margins, snapped to the sources' grey values.

        ``there`` (N, M) bool says which of ``rows`` (N, M) were placed. Images (N, K, K), shapes (N, 2), and where
        their first pixels lie in the assemblies' frames (N, 2).
        """
        box, margin = bounds(body.halo), self._margins[rows[:, 0]]
        spare = (self.settings.canvas - (box[:, 2:] - box[:, :2])) // 2
        margin = torch.minimum(margin, spare.repeat(1, 2))
        corner, end = box[:, :2] - margin[:, :2], box[:, 2:] + margin[:, 2:]
        side = (body.halo.shape[1] + 2 * MAX_MARGIN + _STEP - 1) // _STEP * _STEP
        image = body.image.where(within(box, body.halo.shape[1]), WHITE)
        image = window(image, corner, side, WHITE)
        held = (self._greys[rows] & there[:, :, None]).any(1)
        table = _nearest(held[:, : self.settings.halo_level])
        snapped = table.gather(1, image.flatten(1).long()).view_as(image)
        return snapped, end - corner, corner

    def _matrices(self, data: Tensor, rows: Tensor, moved: Tensor) -> Tensor:
        """Affine data (N, M, 6) from composite pixels, ``moved`` (N, M, 2) against each body, to the source crops'."""
        a, b, c, d, e, f = data.unbind(2)
        y, x = moved.unbind(2)
        corner = self._corners[rows]
        return torch.stack((a, b, a * x + b * y + c + corner[:, :, 1], d, e, d * x + e * y + f + corner[:, :, 0]), 2)


@dataclass(frozen=True)
class _Job:
    """N composites of one frame size: sources (N, M), relations (N, M - 1), targets (N,), poses (N * M,), frames."""

    rows: Tensor
    relations: Tensor
    targets: Tensor
    poses: Poses
    frames: Tensor
    seeds: Tensor
    side: int


def _nearest(held: Tensor) -> Tensor:
    """Tables (N, 256) uint8 that move each grey value below L to the nearest one held (N, L) and keep the others."""
    level, far = held.shape[1], 1024
    values = torch.arange(WHITE + 1, device=held.device)
    low = values[:level]
    below = low.where(held, -far).cummax(1).values
    above = low.where(held, far).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(low - below < above - low, below, above)
    return torch.cat((nearest, values[level:].expand(len(held), -1)), 1).to(torch.uint8)
