"""Real crops, and composites of which every epoch has its own, with the interface of the bank that stays the same."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from supcam.composition.stream import ComposedEpochs, ComposedStream
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

    A composite is a function of (seed, epoch, index), so a run that is killed and resumed meets the same crops.
    Labels, weights and domains of the composites change with them.
    """

    epochs: ComposedEpochs
    certain: NDArray[np.float64]  # weights of the real crops
    composed_domains: NDArray[np.int64]  # domain of a composite whose first parent is the real crop of this row
    position: _Position = field(default_factory=_Position)

    @classmethod
    def compose(
        cls, crops: CropSet, settings: Settings, device: torch.device, folder: Path | None = None, *, epochs: int = 1
    ) -> "FreshBank":
        """Start with the composites of epoch 0 of ``epochs``. Composites among ``crops`` are left out.

        Raises:
            UsageError: when no crop can be a source.
            SupcamError: when a crop is not of the training split.
        """
        real = crops.subset(~is_composed(crops))
        compose, chosen = settings.compose, settings.input
        images = canvases(real, chosen, device, folder, spare=compose.count)
        real_labels = torch.from_numpy(np.array(real.labels)).to(device)
        labels = torch.cat([real_labels, real_labels.new_zeros(compose.count)])
        sources = real.frame["source"].astype(str).tolist()
        composed = np.arange(len(labels)) >= len(real)
        both, _ = domain_codes([*sources, *sources], np.arange(2 * len(real)) >= len(real))
        weights, domains = np.ones(len(labels)), np.zeros(len(labels), dtype=np.int64)
        weights[: len(real)], domains[: len(real)] = label_weights(real), both[: len(real)]
        stream = ComposedStream(real, compose, size=chosen.size, scale=chosen.scale)
        bank = cls(
            images,
            labels,
            weights,
            domains,
            composed,
            ComposedEpochs(stream, count=compose.count, epochs=epochs, workers=compose.workers),
            weights[: len(real)].copy(),
            both[len(real) :],
        )
        bank.start_epoch(0)
        return bank

    def start_epoch(self, epoch: int) -> None:
        """Put the composites of an epoch into the bank."""
        position = self.position
        if epoch == position.epoch:
            return
        position.uncomposed.clear()
        start = len(self.certain)
        for batch in self.epochs.take(epoch):
            here = slice(start, start + len(batch.labels))
            self.images[here] = torch.from_numpy(batch.images).to(self.images.device)
            self.labels[here] = torch.from_numpy(batch.labels).to(self.labels.device)
            self.weights[here] = [min(self.certain[row] for row in rows) for rows in batch.rows]
            self.domains[here] = [self.composed_domains[rows[0]] for rows in batch.rows]
            position.uncomposed += batch.uncomposed
            start = here.stop
        position.epoch = epoch

    def close(self) -> None:
        """End the processes that compose."""
        self.epochs.close()

    def metrics(self) -> dict[str, float]:
        """How many composites of the epoch could not be made, in all and by reason; crops took their place."""
        reasons = self.position.uncomposed
        by_reason = {f"uncomposed/{reason}": float(count) for reason, count in sorted(reasons.items())}
        return {"uncomposed": float(reasons.total()), **by_reason}


def training_bank(
    crops: CropSet, settings: Settings, device: torch.device, folder: Path, *, composed: bool, epochs: int
) -> CropBank:
    """The bank that settings ask for: composites as given, or others in each epoch with ``compose.on_the_fly``.

    ``epochs`` is how many are trained with composites. Close the bank when training ends, however it ends.
    """
    if composed and settings.compose.on_the_fly and settings.compose.count:
        return FreshBank.compose(crops, settings, device, folder, epochs=epochs)
    return CropBank.from_crops(crops, settings.input, device, folder)
