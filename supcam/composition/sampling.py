"""What to compose next: the target type first, then a cell that yields it, a case that can serve it, a chain length."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supcam.cluster_type import ClusterType, Relation, composed_type
from supcam.errors import SettingError, UsageError
from supcam.settings import ComposeSettings

Pool: TypeAlias = dict[ClusterType, NDArray[np.int64]]
TARGETS = (ClusterType.TOUCHING, ClusterType.OVERLAPPING, ClusterType.TOUCHING_OVERLAPPING)
_PREFERENCE = 4.0  # how much more often a preferred cell is drawn than another of the same target and kind


@dataclass(frozen=True, order=True)
class Cell:
    """An unordered pair of types and the relation in which they meet."""

    first: ClusterType
    second: ClusterType
    relation: Relation

    @property
    def target(self) -> ClusterType:
        """Type of the composite."""
        return composed_type(self.first, self.second, self.relation)

    @property
    def variant(self) -> bool:
        """Whether the composite's type differs from both parents' types (category-variant)."""
        return self.target not in (self.first, self.second)

    @property
    def needs_third_source(self) -> bool:
        """Whether it takes three sources: two that cross show no touch besides, so that a third must bring it."""
        return self.relation is Relation.BOTH and not (self.first | self.second) & ClusterType.TOUCHING

    def paired(self, kind: ClusterType, relation: Relation) -> list["Cell"]:
        """The cells that pair a further source of this type with either of the two."""
        return [Cell(min(kind, other), max(kind, other), relation) for other in (self.first, self.second)]

    @property
    def label(self) -> str:
        """Text in settings and reports, for example ``instance+touching:overlap``."""
        return f"{self.first.label}+{self.second.label}:{self.relation.label}"

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """Read ``type+type:relation``; the order of the types does not matter.

        Raises:
            SettingError: when the text is not such a cell.
        """
        pair, colon, relation = text.partition(":")
        types = pair.split("+")
        try:
            if not colon or len(types) != 2:
                raise UsageError("two types and a relation are needed")
            first, second = sorted(ClusterType.parse(name) for name in types)
            return cls(first, second, Relation.parse(relation))
        except UsageError as error:
            raise SettingError("compose.cells", text, f"texts such as instance+touching:overlap ({error})") from None


_PAIRS = tuple(combinations_with_replacement(ClusterType, 2))
CELLS = tuple(Cell(*pair, relation) for pair in _PAIRS for relation in (Relation.TOUCH, Relation.OVERLAP))
BOTH_CELLS = tuple(Cell(*pair, Relation.BOTH) for pair in _PAIRS)
PREFERRED = (
    "instance+instance:touch",
    "instance+instance:overlap",
    "instance+touching:overlap",
    "instance+overlapping:touch",
)
_PREFERRED = frozenset(map(Cell.parse, PREFERRED))


@dataclass(frozen=True)
class Plan:
    """One composite to make: its cell, and how many sources in all."""

    cell: Cell
    length: int = 2


class Policy:
    """Draws plans and sources from crops that are known by type, group (case or source) and tone (core grey).

    Attributes:
        types, tones: Of each crop.
        pools: group -> type -> rows of its crops.
        groups_of: cell that may be drawn -> groups that can serve it.
    """

    def __init__(
        self,
        types: Sequence[int],
        groups: Sequence[str],
        settings: ComposeSettings,
        tones: Sequence[float] | None = None,
    ) -> None:
        self._settings = settings
        self.types = [ClusterType(kind) for kind in types]
        self.tones = np.zeros(len(types)) if tones is None else np.asarray(tones, dtype=np.float64)
        self._mix = {str(name): weight for name, weight in settings.relation_mix.items()}
        labels, names = np.asarray(types), np.array(["" if settings.across_cases else group for group in groups])
        self.pools: dict[str, Pool] = {
            str(name): {kind: np.flatnonzero((names == name) & (labels == kind)) for kind in ClusterType}
            for name in np.unique(names)
        }
        allowed = [Cell.parse(text) for text in settings.cells] if settings.cells else [*CELLS, *BOTH_CELLS]
        self._allowed = frozenset(allowed)
        wanted = [cell for cell in allowed if self._weight(cell.relation) > 0]
        _refuse_what_cannot_be(wanted, settings)
        self.groups_of = {cell: able for cell in wanted if (able := self._serving(cell))}
        self._targets, self._target_shares = self._shares(np.bincount(types, minlength=len(ClusterType)))
        self._cells = {target: self._weighted(target) for target in self._targets}
        self._length_edges = _edges(settings.chain_shares)

    def can(self, cell: Cell) -> bool:
        """Whether some group holds sources for this cell."""
        return bool(self._serving(cell))

    def plan(self, rng: np.random.Generator) -> Plan | None:
        """Target, cell and length of the next composite; ``None`` when the sources serve no allowed cell."""
        if not self._targets:
            return None
        target = self._targets[_pick(rng, np.cumsum(self._target_shares))]
        cells, edges = self._cells[target]
        return Plan(cells[_pick(rng, edges)], 2 + _pick(rng, self._length_edges))

    def sources(self, plan: Plan, rng: np.random.Generator) -> tuple[list[int], list[Relation]]:
        """Rows of different crops from one group, and the relation of each to what is composed before it."""
        cell = plan.cell
        pools = [self.pools[group] for group in self.groups_of.get(cell) or self._serving(cell)]
        sizes = [sum(rows.size for rows in pool.values()) for pool in pools]
        pool = pools[_pick(rng, _edges(sizes))]
        kinds = (cell.first, cell.second) if rng.random() < 0.5 else (cell.second, cell.first)
        rows: list[int] = []
        for kind in kinds:
            rows.append(self._draw(pool, kind, rows, rng))
        relations, length = [cell.relation], plan.length
        if cell.needs_third_source:
            first, then = (Relation.TOUCH, Relation.OVERLAP)[:: 1 if rng.random() < 0.5 else -1]
            relations, length = [first], max(length, 3)
            # Where no third is left the composer refuses the pair: it is not of the type that the cell gives.
            if (third := self._draw_extra(pool, self._thirds(cell), rows, rng)) is not None:
                rows.append(third)
                relations.append(then)
        extras = self._extras(cell)
        while len(rows) < length and (extra := self._draw_extra(pool, extras, rows, rng)) is not None:
            rows.append(extra)
            relations.append(self._mixed(extras[self.types[extra]], rng))
        return rows, relations

    def _extras(self, cell: Cell) -> dict[ClusterType, list[Relation]]:
        """Types that sources beyond the cell's two may have, and in which relations they may meet what is there.

        A further source keeps the target, pairs its type with one of the cell's two types in a cell that is allowed,
        and meets in a relation of weight above 0. An instance comes first, so that N sources make N chromosomes.
        """
        found = {
            kind: [
                relation
                for relation in (Relation.TOUCH, Relation.OVERLAP)
                if (kind | relation | cell.target) == cell.target
                and self._weight(relation) > 0
                and any(other in self._allowed for other in cell.paired(kind, relation))
            ]
            for kind in ClusterType
        }
        return {kind: relations for kind, relations in found.items() if relations}

    def _thirds(self, cell: Cell) -> list[ClusterType]:
        """Types of the source that completes a cell of three: those that any allowed cell pairs with its two."""
        return [
            kind
            for kind in ClusterType
            if any(other in self._allowed for relation in Relation for other in cell.paired(kind, relation))
        ]

    def _weight(self, relation: Relation) -> float:
        """How often cells of this relation are drawn; 0 for never."""
        return self._mix.get(relation.label, 0.0)

    def _serving(self, cell: Cell) -> list[str]:
        need = Counter((cell.first, cell.second))
        return [
            name for name, pool in self.pools.items() if all(pool[kind].size >= count for kind, count in need.items())
        ]

    def _shares(self, counts: NDArray[np.int64]) -> tuple[list[ClusterType], NDArray[np.float64]]:
        wanted = {str(name): share for name, share in (self._settings.target_shares or {}).items()}
        present = [int(counts[target]) for target in TARGETS if counts[target]]
        # A type that is missing altogether counts like the rarest one: it must not drown the others.
        shares = {
            target: wanted.get(target.label, 0.0) if wanted else 1.0 / (int(counts[target]) or min(present, default=1))
            for target in TARGETS
        }
        kept = [target for target in TARGETS if shares[target] > 0 and any(c.target == target for c in self.groups_of)]
        values = np.array([shares[target] for target in kept])
        return kept, values / values.sum() if kept else values

    def _weighted(self, target: ClusterType) -> tuple[list[Cell], NDArray[np.float64]]:
        """Cells of a target with their cumulative weights; the variant share holds where both kinds exist."""
        cells = [cell for cell in self.groups_of if cell.target == target]
        weights = np.array(
            [self._weight(cell.relation) * (_PREFERENCE if cell in _PREFERRED else 1.0) for cell in cells]
        )
        variant = np.array([cell.variant for cell in cells])
        for kind, share in ((variant, self._settings.variant_share), (~variant, 1.0 - self._settings.variant_share)):
            if weights[kind].sum() > 0 and weights[~kind].sum() > 0:
                weights[kind] *= share / weights[kind].sum()
        return cells, _edges(weights)

    def _draw(self, pool: Pool, kind: ClusterType, taken: list[int], rng: np.random.Generator) -> int:
        """A crop of this type that is not taken, near the first one in tone; the nearest where none is near."""
        rows = pool[kind]
        if not taken:
            return int(rows[rng.integers(rows.size)])
        distance = np.abs(self.tones[rows] - self.tones[taken[0]])
        for row in taken:
            distance[rows == row] = np.inf
        near = rows[distance <= max(self._settings.max_tone_difference, float(distance.min()))]
        return int(near[rng.integers(near.size)])

    def _draw_extra(
        self, pool: Pool, kinds: Iterable[ClusterType], taken: list[int], rng: np.random.Generator
    ) -> int | None:
        """A crop of the first of these types that has one left."""
        for kind in kinds:
            if not set(pool[kind].tolist()) <= set(taken):
                return self._draw(pool, kind, taken, rng)
        return None

    def _mixed(self, relations: list[Relation], rng: np.random.Generator) -> Relation:
        return relations[_pick(rng, _edges([self._weight(relation) for relation in relations]))]


def _refuse_what_cannot_be(cells: list[Cell], settings: ComposeSettings) -> None:
    """Refuse settings that allow no cell, or none for a target that they ask for."""
    shares = {str(name): share for name, share in (settings.target_shares or {}).items()}
    asked = [target for target in TARGETS if shares.get(target.label, 0.0) > 0]
    missing = [target.label for target in asked if not any(cell.target is target for cell in cells)]
    if missing or not cells:
        named = f" among compose.cells {settings.cells}" if settings.cells else ""
        raise SettingError(
            "compose.relation_mix",
            dict(settings.relation_mix),
            f"weights that leave a cell{named} for {', '.join(missing) or 'any target'} "
            "(a relation of weight 0 is never drawn)",
            "Give such a cell and its relation, or set the share in compose.target_shares to 0.",
        )


def _edges(weights: ArrayLike) -> NDArray[np.float64]:
    """Cumulative shares of weights, ending at 1."""
    values = np.asarray(weights, dtype=np.float64)
    edges: NDArray[np.float64] = np.cumsum(values / values.sum())
    return edges


def _pick(rng: np.random.Generator, edges: NDArray[np.float64]) -> int:
    return min(int(np.searchsorted(edges, rng.random(), side="right")), edges.size - 1)
