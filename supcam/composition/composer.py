"""Make one composite: draw a plan and sources, place, check, blend; bounded tries with counted reasons."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from supcam.cluster_type import ClusterType, Relation
from supcam.composition.assembly import Assembly, Member
from supcam.composition.contact import Fault
from supcam.composition.masks import (
    MAX_PIECE,
    WHITE,
    Body,
    Grey,
    Mask,
    Points,
    bounding_box,
    falls_apart,
    find_body,
    source_defect,
)
from supcam.composition.placement import LEAST_CROSSING, admissible
from supcam.composition.sampling import Plan, Policy
from supcam.composition.sources import Source, Sources, refuse_leaks
from supcam.composition.warp import Warp
from supcam.data.manifest import is_drawn
from supcam.settings import ComposeSettings

LEAST_KEPT = 0.9  # of the halo that a warp must keep; less means that a thin bridge broke
MAX_MARGIN = 16  # pixels of white that a composite takes over from its first source's crop


@dataclass(frozen=True)
class Placed:
    """Where one source went: ``matrix`` is Pillow's affine data from composite pixels back to the source crop's."""

    crop_id: str
    row: int
    matrix: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Composite:
    """A finished composite. ``masks`` (N + 1, H, W), when asked for: each source, then the shared core."""

    image: Grey
    type: ClusterType
    relation: Relation
    parents: tuple[str, ...]
    group: str
    plan: Plan
    placed: tuple[Placed, ...]
    rejected: Counter[str] = field(default_factory=Counter)
    masks: Mask | None = None


@dataclass
class _Draft:
    """A composite under construction: its plan, its random numbers, and why tries for it failed so far."""

    plan: Plan
    rng: np.random.Generator
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Skipped:
    """No composite came of this index; ``rejected`` counts why each try failed."""

    rejected: Counter[str]

    @property
    def reason(self) -> str:
        """What failed most often."""
        return self.rejected.most_common(1)[0][0] if self.rejected else "no-sources"


class Composer:
    """Composes clusters from crops; each composite is a function of (seed, index) alone.

    Attributes:
        defects: reason -> crop ids of the sources that the quality gates left out.
        sources: The others, by their position among the crops.
        types: Type of every crop.
        rows: Those positions, of real crops; of drawn ones where there are no others.
        policy: What to compose next of ``rows``; it numbers the sources by their position in them.
    """

    def __init__(self, crops: Sources, settings: ComposeSettings, *, keep_masks: bool = False) -> None:
        refuse_leaks(crops.frame)
        self.settings = settings
        self.keep_masks = keep_masks
        self.defects: dict[str, list[str]] = {}
        ids = [str(name) for name in crops.frame["crop_id"]]
        self.types = [ClusterType(int(label)) for label in crops.labels]
        self.sources: dict[int, Source] = {}
        for row, image in enumerate(crops.images):
            defect = source_defect(image, settings)
            if defect is None and self.types[row] is not ClusterType.INSTANCE and falls_apart(image, settings):
                defect = "several-components"
            if defect:
                self.defects.setdefault(defect, []).append(ids[row])
            else:
                self.sources[row] = Source.of(image, settings)
        self.ids, self._groups = ids, list(crops.groups)
        self._floors: dict[str, int] = {}
        for row, source in self.sources.items():
            group = self._groups[row]
            self._floors[group] = min(int(source.body.image.min()), self._floors.get(group, settings.floor))
        drawn = is_drawn(crops.frame)
        if drawn[list(self.sources)].all():
            drawn = np.zeros_like(drawn)
        self.rows = [row for row in self.sources if not drawn[row]]
        self.policy = self._policy_of(self.rows)
        # Among themselves, so that the share of composites made of them is what settings ask for.
        self._drawn_rows = [row for row in self.sources if drawn[row]]
        self._drawn_policy = self._policy_of(self._drawn_rows) if self._drawn_rows else None

    def __len__(self) -> int:
        """Number of sources that passed the quality gates."""
        return len(self.sources)

    def compose(self, seed: int, index: int) -> Composite | Skipped:
        """The composite of this seed and index, whatever was composed before it and in which process."""
        rng = np.random.default_rng((seed, index))
        policy, rows = self.policy, self.rows
        if self._drawn_policy is not None and rng.random() < self.settings.drawn.share:
            policy, rows = self._drawn_policy, self._drawn_rows
        plan = policy.plan(rng)
        if plan is None:
            return Skipped(Counter({"no-sources": 1}))
        return self._composed(plan, rng, policy, rows)

    def compose_plan(self, plan: Plan, rng: np.random.Generator) -> Composite | Skipped:
        """A composite of the plan's cell, or what kept it from being made in the tries allowed."""
        return self._composed(plan, rng, self.policy, self.rows)

    def _composed(self, plan: Plan, rng: np.random.Generator, policy: Policy, rows: list[int]) -> Composite | Skipped:
        if not policy.can(plan.cell):
            return Skipped(Counter({"no-sources": 1}))
        draft = _Draft(plan, rng)
        for _ in range(self.settings.source_tries):
            positions, relations = policy.sources(plan, rng)
            made = self._attempt(draft, [rows[p] for p in positions], relations)
            if made is not None:
                return made
        return Skipped(draft.rejected)

    def _attempt(self, draft: _Draft, rows: list[int], relations: list[Relation]) -> Composite | None:
        # What no placement can give is refused before the warps and the transform, which take most of the time.
        if relations[0] is not Relation.TOUCH and not self._can_cross(rows[0], rows[1]):
            draft.rejected["no-admissible-shift"] += 1
            return None
        if relations[0] is Relation.OVERLAP and self._shows_none(rows[0], rows[1]):
            draft.rejected[Fault.HIDDEN_TOUCH.value] += 1
            return None
        # Masks are found again in each warped image: a mask that is turned itself has another outline than its image.
        first = self._warped(rows[0], draft.rng, draft.rejected)
        if first is None:
            return None
        assembly = Assembly.start(first[1])
        warps, bits, kind = {rows[0]: first[0]}, 0, self.types[rows[0]]
        for row, relation in zip(rows[1:], relations, strict=True):
            warped = self._warped(row, draft.rng, draft.rejected)
            if warped is None:
                return None
            # A scanner's black is one for all crops of a case: where the case's own crops are darker, so may blends be.
            floor = self._floors[self._groups[row]]
            # Between sources of the target type already, an extra touch or overlap changes nothing.
            joined = self._join(draft, assembly, warped[1], relation, kind | self.types[row], floor)
            if joined is None:
                if len(warps) < 2:
                    return None
                break  # a shorter chain is as good, if it is of the type that was planned
            assembly, found = joined
            kind, bits = ClusterType(kind | self.types[row] | found), bits | found
            warps[row] = warped[0]
        if kind is not draft.plan.cell.target:
            draft.rejected["other-relation"] += 1
            return None
        return self._finish(draft, assembly, warps, Relation(bits))

    def _policy_of(self, rows: list[int]) -> Policy:
        bodies = [self.sources[row].body for row in rows]
        tones = [float(np.median(body.image[body.core])) for body in bodies]
        return Policy([self.types[row] for row in rows], [self._groups[row] for row in rows], self.settings, tones)

    def seams_of(self, row: int) -> tuple[Points, ...]:
        """Where a source may touch, each the pixels (K, 2) of its body; empty where it does not, or none shows."""
        return self.sources[row].seams if self.types[row] & ClusterType.TOUCHING else ()

    def _shows_none(self, first: int, second: int) -> bool:
        """Whether two sources of a touching type show no touch that a crossing could leave in sight."""
        known = self.seams_of(first) or self.seams_of(second)
        return bool((self.types[first] | self.types[second]) & ClusterType.TOUCHING) and not known

    def _can_cross(self, first: int, second: int) -> bool:
        """Whether the least crossing of two sources is within the largest share allowed, at equal scales."""
        a, b = self.sources[first], self.sources[second]
        most = self.settings.max_core_overlap_share * min(a.body.core_area, b.body.core_area)
        return LEAST_CROSSING * a.width * b.width <= most

    def _warped(self, row: int, rng: np.random.Generator, rejected: Counter[str]) -> tuple[Warp, Body] | None:
        source = self.sources[row]
        warp = Warp.draw(rng, self.settings.scale)
        image, tail = warp.apply(source.sheet)
        body = find_body(image, self.settings, tail)
        single = self.types[row] is ClusterType.INSTANCE
        if body is None or body.halo_area < self.settings.min_pixels:
            rejected["speck"] += 1
        elif body.core_area < self.settings.min_core_share * body.halo_area:
            rejected["pale"] += 1
        elif body.halo_area < LEAST_KEPT * source.body.halo_area * warp.scale**2 or (
            not single and body.halo_area < (1.0 - MAX_PIECE) * np.count_nonzero(image < self.settings.halo_level)
        ):
            rejected["fell-apart"] += 1
        else:
            seams = tuple(warp.points(seam, source.sheet.shape) - body.corner for seam in self.seams_of(row))
            return warp, replace(body, width=source.width * warp.scale, single=single, seams=seams)
        return None

    def _join(
        self, draft: _Draft, assembly: Assembly, body: Body, relation: Relation, bits: int, floor: int
    ) -> tuple[Assembly, Relation] | None:
        """Place ``body`` at a random admissible shift that keeps the composite of the target type."""
        target, rejected = draft.plan.cell.target, draft.rejected
        shifts = admissible(assembly.body, body, relation, self.settings)
        if len(shifts.offsets) == 0:
            rejected["no-admissible-shift"] += 1
            return None
        strict = target is ClusterType.OVERLAPPING  # elsewhere an unnoticed touch changes nothing
        for _ in range(self.settings.tries):
            offset = shifts.draw(draft.rng)
            found = assembly.relation_to(body, offset, self.settings, strict=strict)
            if isinstance(found, Fault):
                rejected[found.value] += 1
            elif found & relation != relation:
                rejected["other-relation"] += 1
            elif (bits | found) & ~target:
                rejected[Fault.SECOND_CONTACT.value] += 1
            elif (
                found & Relation.OVERLAP
                and (bits | found) & ClusterType.TOUCHING
                and not assembly.shows_touch(body, offset)
            ):
                rejected[Fault.HIDDEN_TOUCH.value] += 1
            else:
                return assembly.joined(body, offset, self.settings, floor), found
        return None

    def _finish(self, draft: _Draft, assembly: Assembly, warps: dict[int, Warp], relation: Relation) -> Composite:
        rows = list(warps)
        # No check that this is one component is needed: haloes in contact meet in neighbouring pixels, blending only
        # darkens, and outside the haloes only their own rims can get as dark as the halo level.
        image, (top, left) = _framed(assembly.body, self.sources[rows[0]].margin, self.settings.canvas)
        image = _snapped(image, np.any([self.sources[row].greys for row in rows], axis=0), self.settings.halo_level)
        placed = tuple(
            Placed(self.ids[row], row, self._matrix(row, warp, member, (top, left)))
            for (row, warp), member in zip(warps.items(), assembly.members, strict=True)
        )
        masks = None
        if self.keep_masks:
            masks = _crop(assembly.masks(self.settings.halo_level), (top, left), image.shape)
            masks &= image < self.settings.halo_level  # of the rim, the frame cuts off what is beyond the halo's box
        parents = tuple(self.ids[row] for row in rows)
        plan = draft.plan
        return Composite(
            image, plan.cell.target, relation, parents, self._groups[rows[0]], plan, placed, draft.rejected, masks
        )

    def _matrix(
        self, row: int, warp: Warp, member: Member, corner: tuple[int, int]
    ) -> tuple[float, float, float, float, float, float]:
        source, body = self.sources[row].body, member.body
        a, b, c, d, e, f = warp.inverse(*source.image.shape)
        x = body.corner[1] - member.offset[1] + corner[1]
        y = body.corner[0] - member.offset[0] + corner[0]
        return (a, b, a * x + b * y + c + source.corner[1], d, e, d * x + e * y + f + source.corner[0])


def _framed(body: Body, margin: tuple[int, int, int, int], canvas: int) -> tuple[Grey, tuple[int, int]]:
    """The image on the tight box of its halo plus white margins, and that frame's corner in the body's frame.

    Margins shrink where the frame would outgrow the canvas.
    """
    box = rows, columns = bounding_box(body.halo)
    spare = [(canvas - side) // 2 for side in body.halo[box].shape]
    top, left, bottom, right = (min(side, MAX_MARGIN, most) for side, most in zip(margin, spare * 2, strict=True))
    image = np.pad(body.image[box], ((top, bottom), (left, right)), constant_values=WHITE)
    return image, (rows.start - top, columns.start - left)


def _snapped(image: Grey, greys: Mask, halo_level: int) -> Grey:
    """``image`` with each grey value below the halo level moved to the nearest one that its sources hold.

    Stretching the contrast leaves a comb of grey values that never occur. Warping and blending fill the gaps, which
    alone is enough to recognise composites.
    """
    held = np.flatnonzero(greys[:halo_level])
    values = np.arange(256)
    # The held values on either side of each value; the first and the last serve beyond the ends.
    above = np.minimum(np.searchsorted(held, values), held.size - 1)
    below = np.maximum(above - 1, 0)
    nearest = np.where(values - held[below] < np.abs(held[above] - values), held[below], held[above])
    table: Grey = np.where(values < halo_level, nearest, values).astype(np.uint8)
    return table[image]


def _crop(masks: Mask, corner: tuple[int, int], shape: tuple[int, ...]) -> Mask:
    """``masks`` (N, H, W) on the frame of ``shape`` whose first pixel lies at ``corner``; outside is empty."""
    framed = np.zeros((masks.shape[0], *shape), dtype=bool)
    top, left = max(corner[0], 0), max(corner[1], 0)
    part = masks[:, top : corner[0] + shape[0], left : corner[1] + shape[1]]
    row, column = top - corner[0], left - corner[1]
    framed[:, row : row + part.shape[1], column : column + part.shape[2]] = part
    return framed
