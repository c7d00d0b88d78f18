"""Plans and sources of whole batches, drawn from the tables of the policy that draws them one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from supcam.cluster_type import ClusterType, Relation
from supcam.composition.sampling import Cell, Policy

MOST = 5  # sources of one composite
_KINDS = len(ClusterType)
_NONE = -1


@dataclass(frozen=True)
class Plans:
    """What to compose: ``cell`` (B,) int64, a place in ``Draws.cells``, and ``length`` (B,) int64, how many sources."""

    cell: Tensor
    length: Tensor

    def take(self, rows: Tensor) -> "Plans":
        """The plans of these rows."""
        return Plans(self.cell[rows], self.length[rows])


class Draws:
    """The policy's weights as tensors.

    Attributes:
        cells: What cell numbers in plans mean.
        targets: (C,) int64 ClusterType that each cell makes.
        PLAN_SLOTS, SOURCE_SLOTS: uniform numbers that one plan and one set of sources take.
    """

    PLAN_SLOTS = 2
    SOURCE_SLOTS = 3 + MOST + MOST - 2

    def __init__(self, policy: Policy, max_tone: float, device: torch.device) -> None:
        self._max_tone = max_tone
        self.cells: list[Cell] = list(policy.homes)
        shares = policy.cell_shares()
        self._cell_edges = _edges([shares.get(cell, 0.0) for cell in self.cells]).to(device)
        self._length_edges = torch.from_numpy(policy.length_edges).to(device)
        names = list(policy.pools)
        self._home_edges = _padded([policy.home_edges(policy.homes[cell]) for cell in self.cells], 2.0).to(device)
        self._homes = _padded([[names.index(home) for home in policy.homes[cell]] for cell in self.cells], 0).to(device)
        pools = [policy.pools[name].get(kind, np.empty(0)) for name in names for kind in ClusterType]
        self._pools = _padded(pools, _NONE).to(device)
        self._tones = torch.from_numpy(policy.tones).to(device)
        columns = [(cell.first, cell.second, cell.relation, cell.thirded, cell.target) for cell in self.cells]
        table = torch.tensor(columns, dtype=torch.int64, device=device).reshape(-1, 5)
        self._pair, self._relation, self._thirded, self.targets = table[:, :2], table[:, 2], table[:, 3], table[:, 4]
        self._thirds = torch.tensor(
            [[kind in policy.thirds(cell) for kind in ClusterType] for cell in self.cells], device=device
        ).reshape(-1, _KINDS)
        weights = [
            [
                [policy.weight(r) if r in policy.extras(cell).get(kind, ()) else 0.0 for r in _PARTS]
                for kind in ClusterType
            ]
            for cell in self.cells
        ]
        self._extras = torch.tensor(weights, dtype=torch.float64, device=device).reshape(-1, _KINDS, len(_PARTS))

    def plans(self, u: Tensor) -> Plans:
        """Cell and length for uniform numbers (B, PLAN_SLOTS)."""
        return Plans(_place(self._cell_edges, u[:, 0]), 2 + _place(self._length_edges, u[:, 1]))

    def sources(self, plans: Plans, u: Tensor) -> tuple[Tensor, Tensor]:
        """Sources (B, 5) as places among the policy's rows, -1 behind the last, and relations (B, 4), 0 behind it.

        ``u`` (B, SOURCE_SLOTS) uniform numbers.
        """
        cell, device = plans.cell, plans.cell.device
        home = self._homes[cell].gather(1, _place(self._home_edges[cell], u[:, 0])[:, None])[:, 0]
        swapped = (u[:, 1] >= 0.5)[:, None]
        kinds = torch.where(swapped, self._pair[cell].flip(1), self._pair[cell])
        rows = torch.full((len(cell), MOST), _NONE, device=device)
        relations = torch.zeros((len(cell), MOST - 1), dtype=torch.int64, device=device)
        for place in (0, 1):
            rows[:, place] = self._drawn(home * _KINDS + kinds[:, place], rows[:, :place], u[:, 3 + place])
        thirded = self._thirded[cell].bool()
        part = torch.where(u[:, 2] < 0.5, int(Relation.TOUCH), int(Relation.OVERLAP))
        relations[:, 0] = torch.where(thirded, part, self._relation[cell])
        length = torch.where(thirded, plans.length.clamp(min=3), plans.length)
        for place in range(2, MOST):
            some = ((length > place) & (rows[:, place - 1] >= 0)).nonzero()[:, 0]
            third = thirded[some] & (place == 2)
            weights = self._extras[cell[some]]
            allowed = torch.where(third[:, None], self._thirds[cell[some]], weights.sum(2) > 0)
            found = torch.full_like(some, _NONE)
            relation = torch.zeros_like(some)
            for kind in ClusterType:
                drawn = self._drawn(home[some] * _KINDS + kind, rows[some, :place], u[some, 3 + place])
                fits = (found < 0) & allowed[:, kind] & (drawn >= 0)
                touch = weights[:, kind, 0] > u[some, 6 + place] * weights[:, kind].sum(1)
                mixed = torch.where(touch, int(Relation.TOUCH), int(Relation.OVERLAP))
                relation = torch.where(fits, torch.where(third, Relation.BOTH - part[some], mixed), relation)
                found = torch.where(fits, drawn, found)
            rows[some, place], relations[some, place - 1] = found, relation
        return rows, relations

    def _drawn(self, pools: Tensor, taken: Tensor, u: Tensor) -> Tensor:
        """A crop of each row's pool that is not taken, near its first one in tone; -1 where none is left."""
        rows = self._pools[pools]
        free = (rows >= 0) & (rows[:, :, None] != taken[:, None, :]).all(2)
        near = free
        if taken.shape[1]:
            distance = (self._tones[rows] - self._tones[taken[:, :1]]).abs().where(free, torch.inf)
            near = free & (distance <= distance.amin(1, keepdim=True).clamp(min=self._max_tone))
        count = near.cumsum(1)
        rank = (u * count[:, -1]).long()
        place = (count <= rank[:, None]).sum(1).clamp(max=rows.shape[1] - 1)
        return rows.gather(1, place[:, None])[:, 0].where(count[:, -1] > 0, _NONE)


_PARTS = (Relation.TOUCH, Relation.OVERLAP)


def _place(edges: Tensor, u: Tensor) -> Tensor:
    """Which part of the cumulative weights (N,) or (B, N) each of ``u`` (B,) falls into."""
    edges = edges.expand(len(u), -1)
    return (edges <= u[:, None]).sum(1).clamp(max=edges.shape[1] - 1)


def _edges(weights: list[float]) -> Tensor:
    edges = np.cumsum(np.asarray(weights, dtype=np.float64))
    return torch.from_numpy(edges / edges[-1] if edges.size and edges[-1] else edges)


def _padded(parts: Sequence[ArrayLike], filling: float) -> Tensor:
    """Sequences as the rows of one tensor, filled up at their ends."""
    arrays = [np.asarray(part) for part in parts]
    longest = max((array.size for array in arrays), default=0)
    dtype = np.float64 if isinstance(filling, float) else np.int64
    table = np.full((len(arrays), max(longest, 1)), filling, dtype=dtype)
    for row, array in zip(table, arrays, strict=True):
        row[: array.size] = array
    return torch.from_numpy(table)
