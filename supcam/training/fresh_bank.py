"""Real crops and composites that every epoch composes anew, with the interface of the bank that stays the same."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from supcam.composition.stream import Stream, stream_on
from supcam.data.crops import CropSet
from supcam.settings import Settings
from supcam.training.crop_bank import CropBank, canvases, domain_codes, is_composed, label_weights


@dataclass
class _Position:
    """Which epoch is in the bank, and why crops stand in for some of its composites."""

    epoch: int = -1
    uncomposed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class FreshBank(CropBank):
    """A bank whose last ``compose.count`` crops are the composites of the present epoch.

    A composite is a function of (seed, epoch, index), so a run that is killed and resumed meets the same crops; on a
    GPU, which composes in batches, they are others than on a CPU. Labels, weights and domains of the composites change
    with them.
    """

    stream: Stream
    certain: NDArray[np.float64]  # weights of the real crops
    composed_domains: NDArray[np.int64]  # domain of a composite whose first parent is the real crop of this row
    position: _Position = field(default_factory=_Position)

    @classmethod
    def compose(
        cls, crops: CropSet, settings: Settings, device: torch.device, folder: Path | None = None
    ) -> "FreshBank":
        """Start with the composites of epoch 0. Composites among ``crops`` are left out: they are made anew."""
        real = crops.subset(~is_composed(crops))
        count, chosen = settings.compose.count, settings.input
        images = canvases(real, chosen, device, folder, spare=count)
        real_labels = torch.from_numpy(np.array(real.labels)).to(device)
        labels = torch.cat([real_labels, real_labels.new_zeros(count)])
        sources = real.frame["source"].astype(str).tolist()
        composed = np.arange(len(labels)) >= len(real)
        both, _ = domain_codes([*sources, *sources], np.arange(2 * len(real)) >= len(real))
        weights, domains = np.ones(len(labels)), np.zeros(len(labels), dtype=np.int64)
        weights[: len(real)], domains[: len(real)] = label_weights(real), both[: len(real)]
        bank = cls(
            images,
            labels,
            weights,
            domains,
            composed,
            stream_on(device, real, settings.compose, size=chosen.size, scale=chosen.scale),
            weights[: len(real)].copy(),
            both[len(real) :],
        )
        bank.start_epoch(0)
        return bank

    def start_epoch(self, epoch: int) -> None:
        """Put the composites of an epoch into the bank."""
        position, tail = self.position, self.composed
        if epoch == position.epoch or not tail.any():
            return
        batch = self.stream.batch(epoch, range(int(tail.sum())))
        first = len(self) - len(batch.labels)
        self.images[first:] = batch.images.to(self.images.device)
        self.labels[first:] = batch.labels.to(self.labels.device)
        self.weights[first:] = [min(self.certain[row] for row in rows) for rows in batch.rows]
        self.domains[first:] = [self.composed_domains[rows[0]] for rows in batch.rows]
        position.epoch, position.uncomposed = epoch, batch.uncomposed

    def metrics(self) -> dict[str, float]:
        """How many composites of the epoch could not be made, in all and by reason; crops took their place."""
        reasons = self.position.uncomposed
        figures = {f"uncomposed/{reason}": float(count) for reason, count in sorted(reasons.items())}
        return {"uncomposed": float(reasons.total()), **figures}


def training_bank(
    crops: CropSet, settings: Settings, device: torch.device, folder: Path, *, composed: bool
) -> CropBank:
    """The bank that settings ask for: composites as given, or anew in every epoch with ``compose.on_the_fly``."""
    if composed and settings.compose.on_the_fly and settings.compose.count:
        return FreshBank.compose(crops, settings, device, folder)
    return CropBank.from_crops(crops, settings.input, device, folder)
