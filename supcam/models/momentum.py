"""The key encoder: a slow copy of the query encoder that no gradient reaches and no batch statistic enters."""

import copy
import math

import torch
from torch import Tensor, nn


def momentum_at(step: int, steps: int, start: float, end: float) -> float:
    """Key momentum at ``step`` of ``steps``: a half cosine from ``start`` to ``end`` (Grill et al. 2020)."""
    if steps <= 1:
        return end
    done = min(max(step / (steps - 1), 0.0), 1.0)
    return end - (end - start) * (math.cos(math.pi * done) + 1.0) / 2.0


class MomentumEncoder(nn.Module):
    """Exponential average of an online network's weights and of its running statistics.

    The copy always normalises by its averaged running statistics (Cai et al., *Exponential Moving Average
    Normalization*, CVPR 2021), never by those of the present batch. A key therefore depends on its own crop alone,
    so nothing about the batch leaks from key to query, on one device or on several, and no shuffling is needed.

    Attributes:
        network: The averaged copy, in evaluation mode for good.
        updates: Number of updates so far.

    Shape:
        - input: whatever the online network takes; output: what it gives, without gradient.
    """

    updates: Tensor

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(online).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.network.eval()

    def train(self, mode: bool = True) -> "MomentumEncoder":
        """Keep the copy in evaluation mode whatever the mode of its owner."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """Move the copy towards ``online`` by ``1 - momentum``.

        Running statistics start at placeholders instead of measured values, so their momentum is ramped
        up as (1 + n) / (10 + n) over the first n updates.
        """
        count = int(self.updates)
        early = min(momentum, (1 + count) / (10 + count))
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = [weight.detach() for weight in online.parameters()]
        torch._foreach_lerp_(mine, theirs, 1.0 - momentum)
        for kept, new in zip(self.network.buffers(), online.buffers(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1.0 - early)
            else:
                kept.copy_(new)
        self.updates += 1

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Tensor:
        """Keys of the crops, without gradient."""
        keys: Tensor = self.network(crops)
        return keys
