"""Composition on the fly: labelled batches that are a function of (seed, epoch, index), on any device."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from supcam.composition.composer import Composer, Composite, Sources
from supcam.composition.masks import Grey
from supcam.data.images import letterbox, native_canvas
from supcam.settings import ComposeSettings


@dataclass(frozen=True)
class Batch:
    """``images`` (B, 1, S, S) uint8 on white, ``labels`` (B,) int64, both on the stream's device."""

    images: torch.Tensor
    labels: torch.Tensor


class ComposedStream:
    """Composes training batches with the very composer that writes the composed set.

    Attributes:
        skipped: reasons of the indices for which nothing could be composed; a source crop took their place.
    """

    def __init__(
        self,
        crops: Sources,
        settings: ComposeSettings,
        *,
        size: int,
        scale: Literal["letterbox", "native"] = "letterbox",
        device: torch.device | str = "cpu",
    ) -> None:
        self._composer = Composer(crops, settings)
        self._crops = crops
        self._seed = settings.seed
        self._size = size
        self._fit = letterbox if scale == "letterbox" else native_canvas
        self._device = torch.device(device)
        self.skipped: Counter[str] = Counter()

    def one(self, epoch: int, index: int) -> tuple[Grey, int]:
        """Square crop (S, S) and type of one index; an un-composed source where every try failed."""
        made = self._composer.compose(self._mixed(epoch), index)
        if isinstance(made, Composite):
            return self._fit(made.image, self._size), int(made.type)
        self.skipped.update(made.rejected.keys())
        rng = np.random.default_rng((self._mixed(epoch), index, 1))
        row = int(rng.integers(len(self._crops.images)))
        return self._fit(self._crops.images[row], self._size), int(self._crops.labels[row])

    def batch(self, epoch: int, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The composites of these indices in this epoch; the same whatever the batch they are asked in."""
        made = [self.one(epoch, int(index)) for index in indices]
        images = torch.from_numpy(np.stack([image for image, _ in made])[:, None])
        labels = torch.tensor([label for _, label in made], dtype=torch.int64)
        return Batch(images.to(self._device), labels.to(self._device))

    def _mixed(self, epoch: int) -> int:
        return int(np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)[0])
