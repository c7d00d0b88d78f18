"""Composition on the fly: labelled batches that are a function of (seed, epoch, index), one by one or on a device."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from supcam.composition.batched.canvas import fitted
from supcam.composition.batched.composer import BatchComposer, Missed, reason_of
from supcam.composition.composer import Composer, Composite, Sources
from supcam.composition.masks import WHITE
from supcam.errors import UsageError
from supcam.serving.images import letterbox, native_canvas
from supcam.settings import ComposeSettings


@dataclass(frozen=True)
class Batch:
    """Crops of one call.

    Attributes:
        images: (B, 1, S, S) uint8 on white, on the stream's device.
        labels: (B,) int64 ClusterType, on the stream's device.
        rows: Sources of each, by their position among the crops; one where nothing could be composed.
        uncomposed: reason -> how many sources stand in for composites that could not be made.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: list[tuple[int, ...]]
    uncomposed: Counter[str]


class Stream(ABC):
    """Composes training batches by the rules that make the composed set."""

    def __init__(
        self,
        crops: Sources,
        settings: ComposeSettings,
        *,
        size: int,
        scale: Literal["letterbox", "native"] = "letterbox",
    ) -> None:
        """Prepare the sources.

        Raises:
            UsageError: when no crop can be a source.
            SupcamError: when a crop is not of the training split.
        """
        self._composer = Composer(crops, settings)
        if not len(self._composer):
            reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in self._composer.defects.items())
            raise UsageError(
                f"none of {len(crops.images)} training crops can be composed ({reasons or 'there are none'}). "
                "Set compose.on_the_fly to false or compose.count to 0, or import other crops."
            )
        self._crops, self._size = crops, size
        self._scale: Literal["letterbox", "native"] = scale
        self._seed = settings.seed

    @abstractmethod
    def batch(self, epoch: int, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The composites of these indices in this epoch; the same whatever the batch they are asked in."""

    def _stand_in(self, seed: int, index: int) -> tuple[NDArray[np.uint8], int, int]:
        """An un-composed source (S, S) for an index of which nothing came, its label and row."""
        rng = np.random.default_rng((seed, index, 1))
        row = self._composer.rows[int(rng.integers(len(self._composer)))]
        return self._fitted(self._crops.images[row]), int(self._crops.labels[row]), row

    def _fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return (letterbox if self._scale == "letterbox" else native_canvas)(image, self._size)

    def _mixed(self, epoch: int) -> int:
        return int(np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)[0])


class ComposedStream(Stream):
    """One by one on a CPU, with the very composer that writes the composed set."""

    def batch(self, epoch: int, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The composites of these indices in this epoch; the same whatever the batch they are asked in."""
        seed, reasons = self._mixed(epoch), Counter[str]()
        images, labels, rows = [], [], []
        for index in indices:
            made = self._composer.compose(seed, int(index))
            if isinstance(made, Composite):
                images.append(self._fitted(made.image))
                labels.append(int(made.type))
                rows.append(tuple(placed.row for placed in made.placed))
            else:
                image, label, row = self._stand_in(seed, int(index))
                images.append(image)
                labels.append(label)
                rows.append((row,))
                reasons[made.reason] += 1
        return Batch(torch.from_numpy(np.stack(images)[:, None]), torch.tensor(labels), rows, reasons)


class DeviceStream(Stream):
    """Whole batches at once on a device. Other composites than those of ``ComposedStream``, by the same rules."""

    def __init__(
        self,
        crops: Sources,
        settings: ComposeSettings,
        *,
        size: int,
        scale: Literal["letterbox", "native"] = "letterbox",
        device: torch.device | str,
    ) -> None:
        """Prepare the sources and move them to ``device``."""
        super().__init__(crops, settings, size=size, scale=scale)
        self._batches = BatchComposer(self._composer, device)

    def batch(self, epoch: int, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The composites of these indices in this epoch; the same whatever the batch they are asked in."""
        with _counting_in_any_order():
            return self._batch(self._mixed(epoch), indices)

    def _batch(self, seed: int, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        reasons, device = Counter[str](), self._batches.device
        numbers = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        images = torch.full((len(numbers), 1, self._size, self._size), WHITE, dtype=torch.uint8, device=device)
        labels = torch.zeros(len(numbers), dtype=torch.int64, device=device)
        rows = torch.full((len(numbers), 1), -1, device=device)
        for made in self._batches.compose(seed, numbers):
            if isinstance(made, Missed):
                reasons.update(reason_of(number) for number in made.reasons.tolist())
                for place in made.places.tolist():
                    image, label, row = self._stand_in(seed, int(numbers[place]))
                    images[place, 0], labels[place] = torch.from_numpy(image).to(device), label
                    rows[place, 0] = row
                continue
            if rows.shape[1] < made.rows.shape[1]:
                rows = torch.nn.functional.pad(rows, (0, made.rows.shape[1] - rows.shape[1]), value=-1)
            images[made.places, 0] = fitted(made.images, made.shapes, self._size, self._scale)
            labels[made.places], rows[made.places] = made.types, made.rows
        sources = [tuple(row for row in line if row >= 0) for line in rows.tolist()]
        return Batch(images, labels, sources, reasons)


@contextmanager
def _counting_in_any_order() -> Iterator[None]:
    """Let counts add up in any order, as training does not: whole numbers come out the same, and much sooner."""
    strict = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)


def stream_on(
    device: torch.device,
    crops: Sources,
    settings: ComposeSettings,
    *,
    size: int,
    scale: Literal["letterbox", "native"] = "letterbox",
) -> Stream:
    """The stream that is fastest on this device: whole batches on a GPU, one by one on a CPU."""
    if device.type == "cuda":
        return DeviceStream(crops, settings, size=size, scale=scale, device=device)
    return ComposedStream(crops, settings, size=size, scale=scale)
