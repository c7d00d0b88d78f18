"""A first-in first-out store of labelled keys, whose whole state is persistent."""

import torch
from torch import Tensor, nn

from supcam.errors import UsageError


class KeyQueue(nn.Module):
    """The last K keys with their labels.

    All state are buffers, so saving and loading a module gives the same next loss.

    Attributes:
        keys: (K, D) unit keys; unfilled slots are zero.
        labels: (K,) class indices; unfilled slots are -1.
        pointer: Slot that the next key goes to.
        filled: Number of slots that hold a key.

    Raises:
        UsageError: from ``enqueue`` for shapes that do not fit. Labels are taken as they are.
    """

    keys: Tensor
    labels: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @property
    def size(self) -> int:
        """Number of slots K."""
        return self.keys.shape[0]

    @property
    def valid(self) -> Tensor:
        """(K,) bool: slots that hold a key."""
        return torch.arange(self.size, device=self.keys.device) < self.filled

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """The keys (N, D) held at present, in the order of their slots, and their labels (N,)."""
        return self.keys[self.valid], self.labels[self.valid]

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Store keys (B, D) with labels (B,), any B, overwriting the oldest; of more than K the last K stay."""
        if keys.ndim != 2 or keys.shape[1] != self.keys.shape[1] or labels.shape != keys.shape[:1]:
            raise UsageError(
                f"keys {tuple(keys.shape)} and labels {tuple(labels.shape)} do not fit a queue of "
                f"({self.size}, {self.keys.shape[1]}); give keys (B, {self.keys.shape[1]}) and labels (B,)."
            )
        count = keys.shape[0]
        slots = (self.pointer + torch.arange(count, device=keys.device)) % self.size
        kept = slice(max(0, count - self.size), None)
        self.keys[slots[kept]] = keys[kept].to(self.keys.dtype)
        self.labels[slots[kept]] = labels[kept]
        self.pointer.add_(count).remainder_(self.size)
        self.filled.add_(count).clamp_(max=self.size)
