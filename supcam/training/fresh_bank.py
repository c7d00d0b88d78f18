"""Real crops, and composites of which every epoch has its own, with the interface of the bank that stays the same."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from supcam.composition.stream import ComposedEpochs, ComposedStream
from supcam.data.crops import CropSet
from supcam.data.manifest import is_drawn
from supcam.settings import Settings
from supcam.training.crop_bank import CropBank, canvases, domain_codes, is_composed, label_weights


class FreshBank(CropBank):
    """A bank whose last ``compose.count`` crops are the composites of the present epoch.

    A composite is a function of (seed, epoch, index), so a run that is killed and resumed meets the same crops.
    Labels, weights and domains of the composites change with them. Composites among ``crops`` are left out; the bank
    starts with those of epoch 0 of ``epochs``.

    Raises:
        UsageError: when no crop can be a source.
        SupcamError: when a crop is not of the training split.
    """

    def __init__(
        self, crops: CropSet, settings: Settings, device: torch.device, folder: Path | None = None, *, epochs: int = 1
    ) -> None:
        real = crops.subset(~is_composed(crops) | is_drawn(crops.frame))
        compose, chosen, count = settings.compose, settings.input, len(real)
        images = canvases(real, chosen, device, folder, spare=compose.count)
        labels = torch.zeros(count + compose.count, dtype=torch.int64, device=device)
        labels[:count] = torch.from_numpy(np.array(real.labels)).to(device)
        sources = real.frame["source"].astype(str).tolist()
        both = domain_codes([*sources, *sources], np.arange(2 * count) >= count)
        weights, domains = np.ones(len(labels)), np.zeros(len(labels), dtype=np.int64)
        weights[:count], domains[:count] = label_weights(real), both[:count]
        composed = np.append(is_composed(real), np.ones(compose.count, dtype=bool))
        drawn = np.append(is_drawn(real.frame), np.zeros(compose.count, dtype=bool))
        super().__init__(images, labels, weights, domains, composed, drawn)
        self._real = count
        self._composed_domains = both[count:]  # of a composite whose first parent is the real crop of this row
        stream = ComposedStream(real, compose, size=chosen.size, scale=chosen.scale)
        self._epochs = ComposedEpochs(stream, count=compose.count, epochs=epochs, workers=compose.workers)
        self._epoch = -1
        self._uncomposed: Counter[str] = Counter()
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Put the composites of an epoch into the bank."""
        if epoch == self._epoch:
            return
        self._uncomposed.clear()
        start = self._real
        for batch in self._epochs.take(epoch):
            here = slice(start, start + len(batch.labels))
            self.images[here] = torch.from_numpy(batch.images).to(self.images.device)
            self.labels[here] = torch.from_numpy(batch.labels).to(self.labels.device)
            self.weights[here] = [self.weights[list(rows)].min() for rows in batch.rows]
            self.domains[here] = [self._composed_domains[rows[0]] for rows in batch.rows]
            self.drawn[here] = [self.drawn[rows[0]] for rows in batch.rows]  # all sources of a composite are, or none
            self._uncomposed += batch.uncomposed
            start = here.stop
        self._epoch = epoch

    def close(self) -> None:
        """End the processes that compose."""
        self._epochs.close()

    def metrics(self) -> dict[str, float]:
        """How many composites of the epoch could not be made, in all and by reason; crops took their place."""
        by_reason = {f"uncomposed/{reason}": float(count) for reason, count in sorted(self._uncomposed.items())}
        return {"uncomposed": float(self._uncomposed.total()), **by_reason}


def training_bank(
    crops: CropSet, settings: Settings, device: torch.device, folder: Path, *, composed: bool, epochs: int
) -> CropBank:
    """The bank that settings ask for: composites as given, or others in each epoch with ``compose.on_the_fly``.

    ``epochs`` is how many are trained with composites. Close the bank when training ends, however it ends.
    """
    if composed and settings.compose.on_the_fly and settings.compose.count:
        return FreshBank(crops, settings, device, folder, epochs=epochs)
    return CropBank.from_crops(crops, settings.input, device, folder)
