"""What to compose next: the target type first, then a cell that yields it, a case that can serve it, a chain length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import ClusterType, Relation, composed_type
from supcam.errors import SettingError, UsageError
from supcam.settings import ComposeSettings

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


CELLS: tuple[Cell, ...] = tuple(
    Cell(first, second, relation)
    for first, second in combinations_with_replacement(ClusterType, 2)
    for relation in (Relation.TOUCH, Relation.OVERLAP)
)
BOTH_CELLS: tuple[Cell, ...] = tuple(
    Cell(first, second, Relation.BOTH) for first, second in combinations_with_replacement(ClusterType, 2)
)
_PREFERRED = frozenset(
    {
        Cell(ClusterType.INSTANCE, ClusterType.INSTANCE, Relation.TOUCH),
        Cell(ClusterType.INSTANCE, ClusterType.INSTANCE, Relation.OVERLAP),
        Cell(ClusterType.INSTANCE, ClusterType.TOUCHING, Relation.OVERLAP),
        Cell(ClusterType.INSTANCE, ClusterType.OVERLAPPING, Relation.TOUCH),
    }
)


@dataclass(frozen=True)
class Plan:
    """One composite to make: its cell, and how many sources in all."""

    cell: Cell
    length: int = 2


class Policy:
    """Draws plans and sources from crops that are known by type, group (case or source) and tone (core grey)."""

    def __init__(
        self,
        types: Sequence[int],
        groups: Sequence[str],
        settings: ComposeSettings,
        tones: Sequence[float] | None = None,
    ) -> None:
        self._settings = settings
        self._tones = np.zeros(len(types)) if tones is None else np.asarray(tones, dtype=np.float64)
        self._mix = {str(name): weight for name, weight in settings.relation_mix.items()}
        names = ["" if settings.across_cases else group for group in groups]
        self._pools: dict[str, dict[ClusterType, NDArray[np.int64]]] = {}
        for name in sorted(set(names)):
            inside = np.array([other == name for other in names])
            of_type = {kind: np.flatnonzero(inside & (np.asarray(types) == kind)) for kind in ClusterType}
            self._pools[name] = {kind: rows for kind, rows in of_type.items() if rows.size}
        allowed = [Cell.parse(text) for text in settings.cells] if settings.cells else [*CELLS, *BOTH_CELLS]
        self._homes = {cell: homes for cell in allowed if (homes := self._serving(cell))}
        self._targets, self._target_shares = self._shares(np.bincount(types, minlength=len(ClusterType)))
        self._cells = {target: self._weighted(target) for target in self._targets}
        lengths = np.asarray(settings.chain_shares, dtype=np.float64)
        self._length_edges = np.cumsum(lengths / lengths.sum())

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
        homes = self._homes.get(cell) or self._serving(cell)
        sizes = np.array([sum(rows.size for rows in self._pools[home].values()) for home in homes], dtype=np.float64)
        pool = self._pools[homes[_pick(rng, np.cumsum(sizes / sizes.sum()))]]
        kinds = (cell.first, cell.second) if rng.random() < 0.5 else (cell.second, cell.first)
        rows: list[int] = []
        for kind in kinds:
            rows.append(self._draw(pool, kind, rows, rng))
        relations = [cell.relation]
        length = plan.length
        if cell.relation is Relation.BOTH and cell.second is ClusterType.INSTANCE:
            # Two chromosomes that touch and cross at once are rare; a third one brings the other relation.
            first, then = (
                (Relation.TOUCH, Relation.OVERLAP) if rng.random() < 0.5 else (Relation.OVERLAP, Relation.TOUCH)
            )
            relations, length = [first], max(length, 3)
        while len(rows) < length and (extra := self._draw_extra(pool, cell.target, rows, rng)) is not None:
            rows.append(extra)
            second = len(relations) == 1 and relations[0] is not cell.relation
            relations.append(then if second else self._extra_relation(cell.target, rng))
        return rows, relations

    def _serving(self, cell: Cell) -> list[str]:
        need = {cell.first: 1, cell.second: 1} if cell.first != cell.second else {cell.first: 2}
        return [
            name
            for name, pool in self._pools.items()
            if all(pool.get(kind, np.empty(0)).size >= count for kind, count in need.items())
        ]

    def _shares(self, counts: NDArray[np.int64]) -> tuple[list[ClusterType], NDArray[np.float64]]:
        wanted = {str(name): share for name, share in (self._settings.target_shares or {}).items()}
        present = [int(counts[target]) for target in TARGETS if counts[target]]
        # A type that is missing altogether counts like the rarest one: it must not drown the others.
        shares = {
            target: wanted.get(target.label, 0.0) if wanted else 1.0 / (int(counts[target]) or min(present, default=1))
            for target in TARGETS
        }
        kept = [target for target in TARGETS if shares[target] > 0 and any(c.target == target for c in self._homes)]
        values = np.array([shares[target] for target in kept])
        return kept, values / values.sum() if kept else values

    def _weighted(self, target: ClusterType) -> tuple[list[Cell], NDArray[np.float64]]:
        """Cells of a target with their cumulative weights; the variant share holds where both kinds exist."""
        cells = [cell for cell in self._homes if cell.target == target]
        weights = np.array(
            [self._mix.get(cell.relation.label, 0.0) * (_PREFERENCE if cell in _PREFERRED else 1.0) for cell in cells]
        )
        variant = np.array([cell.variant for cell in cells])
        for kind, share in ((variant, self._settings.variant_share), (~variant, 1.0 - self._settings.variant_share)):
            if weights[kind].sum() > 0 and weights[~kind].sum() > 0:
                weights[kind] *= share / weights[kind].sum()
        if weights.sum() <= 0:
            weights = np.ones(len(cells))
        return cells, np.cumsum(weights / weights.sum())

    def _draw(
        self,
        pool: Mapping[ClusterType, NDArray[np.int64]],
        kind: ClusterType,
        taken: list[int],
        rng: np.random.Generator,
    ) -> int:
        """A crop of this type that is not taken, near the first one in tone; the nearest where none is near."""
        rows = pool[kind]
        if not taken:
            return int(rows[rng.integers(rows.size)])
        distance = np.abs(self._tones[rows] - self._tones[taken[0]])
        for row in taken:
            distance[rows == row] = np.inf
        near = rows[distance <= max(self._settings.max_tone_difference, float(distance.min()))]
        return int(near[rng.integers(near.size)])

    def _draw_extra(
        self,
        pool: Mapping[ClusterType, NDArray[np.int64]],
        target: ClusterType,
        taken: list[int],
        rng: np.random.Generator,
    ) -> int | None:
        """An instance, so that a chain of N sources ends with N chromosomes; clusters only where none is left."""
        for kind in ClusterType:
            rows = pool.get(kind)
            if rows is not None and (kind | target) == target and not set(rows.tolist()) <= set(taken):
                return self._draw(pool, kind, taken, rng)
        return None

    def _extra_relation(self, target: ClusterType, rng: np.random.Generator) -> Relation:
        fitting = [relation for relation in (Relation.TOUCH, Relation.OVERLAP) if (relation | target) == target]
        weights = np.array([self._mix.get(relation.label, 0.0) for relation in fitting])
        if weights.sum() <= 0:
            weights = np.ones(len(fitting))
        return fitting[_pick(rng, np.cumsum(weights / weights.sum()))]


def _pick(rng: np.random.Generator, edges: NDArray[np.float64]) -> int:
    return min(int(np.searchsorted(edges, rng.random(), side="right")), edges.size - 1)
