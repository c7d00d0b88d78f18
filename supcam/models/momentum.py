"""The key encoder: a slow copy of the query encoder that no gradient and no statistic of the present batch reaches."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS_RATE = 0.1


def momentum_at(step: int, steps: int, start: float, end: float) -> float:
    """Key momentum at ``step`` of ``steps``: a half cosine from ``start`` to ``end`` (Grill et al. 2020)."""
    if steps <= 1:
        return end
    done = min(max(step / (steps - 1), 0.0), 1.0)
    return end - (end - start) * (math.cos(math.pi * done) + 1.0) / 2.0


class MomentumEncoder(nn.Module):
    """Exponential average of an online network's weights, normalised by statistics of its own past batches.

    Batch normalisation always uses running statistics, which take up a batch only after its keys were computed. A key
    therefore depends on its own crop and on earlier batches, never on its neighbours: nothing about the present batch
    leaks from keys to queries, on one device or on several, and no shuffling is needed. Averaging the online
    network's statistics instead would not do: they belong to other weights than the copy's, far apart early on.

    Attributes:
        network: The averaged copy, in evaluation mode for good.

    Shape:
        - input: whatever the online network takes; output: what it gives, without gradient.
    """

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(online).requires_grad_(False)
        self.network.eval()
        for layer in self.network.modules():
            if isinstance(layer, _BatchNorm):
                layer.register_forward_hook(self._take_up)

    def train(self, mode: bool = True) -> "MomentumEncoder":
        """Keep the copy in evaluation mode; its statistics learn only while this module trains."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def update(self, online: nn.Module, momentum: float) -> None:
        """Move the copy's weights towards those of ``online`` by ``1 - momentum``."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = [weight.detach() for weight in online.parameters()]
        torch._foreach_lerp_(mine, theirs, 1.0 - momentum)

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Tensor:
        """Keys of the crops, without gradient."""
        keys: Tensor = self.network(crops)
        return keys

    @torch.no_grad()
    def calibrate(self, crops: Tensor) -> None:
        """Set all running statistics to those of one batch of crops.

        Needed once before training: under the placeholders 0 and 1 the values of an untrained deep network explode.
        """
        self.eval()
        layers = [layer for layer in self.network.modules() if isinstance(layer, _BatchNorm)]
        rates = [layer.momentum for layer in layers]
        for layer in layers:
            layer.train().momentum = 1.0
        self.network(crops)
        for layer, rate in zip(layers, rates, strict=True):
            layer.momentum = rate
        self.train()

    def _take_up(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After a layer normalised a batch, let its running statistics learn from it."""
        if not self.training or not isinstance(layer, _BatchNorm):
            return
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None
        assert variance is not None
        values = inputs[0]
        if values.numel() < 2 * values.shape[1]:  # a single value has no variance
            return
        # One pass over the values as they lie in memory; var_mean over all but one dimension takes many times as long.
        torch.batch_norm_update_stats(values, mean, variance, STATISTICS_RATE)
