"""Composition on the fly: labelled batches that are a function of (seed, epoch, index), on any device."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from itertools import count as count_from
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from supcam.composition.composer import Composer, Composite, Sources
from supcam.composition.masks import Grey
from supcam.data.images import letterbox, native_canvas
from supcam.errors import UsageError
from supcam.settings import ComposeSettings

_BLOCK = 16  # composites that a worker makes at a time


@dataclass(frozen=True)
class Streamed:
    """One crop of a stream.

    Attributes:
        image: (S, S) uint8 on white.
        label: Its type, a value of ``ClusterType``.
        rows: Sources that it was made of, by their position among the crops; one where nothing could be composed.
        failed: Why not, empty for a composite.
    """

    image: Grey
    label: int
    rows: tuple[int, ...]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """``images`` (B, 1, S, S) uint8 on white, ``labels`` (B,) int64, both on the stream's device; ``rows`` as above."""

    images: torch.Tensor
    labels: torch.Tensor
    rows: list[tuple[int, ...]]
    uncomposed: int = 0  # sources that stand in for composites that could not be made


class ComposedStream(Dataset[Streamed]):
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
        self._crops = crops
        self._labels = [int(label) for label in crops.labels]
        self._seed = settings.seed
        self._size = size
        self._fit = letterbox if scale == "letterbox" else native_canvas
        self._device = torch.device(device)
        self.skipped: Counter[str] = Counter()

    def __getitem__(self, place: tuple[int, int]) -> Streamed:
        """The crop of one (epoch, index); an un-composed source where every try failed."""
        epoch, index = place
        made = self._composer.compose(self._mixed(epoch), index)
        if isinstance(made, Composite):
            rows = tuple(placed.row for placed in made.placed)
            return Streamed(self._fit(made.image, self._size), int(made.type), rows)
        rng = np.random.default_rng((self._mixed(epoch), index, 1))
        row = self._composer.rows[int(rng.integers(len(self._composer)))]
        failed = tuple(made.rejected) or ("no-sources",)
        return Streamed(self._fit(self._crops.images[row], self._size), self._labels[row], (row,), failed)

    def batch(self, epoch: int, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The composites of these indices in this epoch; the same whatever the batch they are asked in."""
        return self._batch(self[epoch, int(index)] for index in indices)

    def epochs(self, first: int, count: int, workers: int = 0) -> Iterator[Batch]:
        """Epoch after epoch without end from ``first`` on, each as one batch of ``count``.

        With ``workers`` other processes compose, up to an epoch ahead, while this one trains; the batches are the same.
        """
        places = ((epoch, index) for epoch in count_from(first) for index in range(count))
        loader = DataLoader(
            self,
            batch_size=_BLOCK,
            sampler=_Places(places),
            collate_fn=list,
            num_workers=workers,
            prefetch_factor=-(-count // (_BLOCK * workers)) if workers else None,
            # Not forked: the training process holds threads, whose locks a fork would copy in any state.
            multiprocessing_context="spawn" if workers else None,
            generator=torch.Generator(),  # leaves the global one alone
        )
        made = chain.from_iterable(loader)
        while True:
            yield self._batch(islice(made, count))

    def _batch(self, made: Iterable[Streamed]) -> Batch:
        crops = list(made)
        for crop in crops:
            self.skipped.update(crop.failed)
        images = torch.from_numpy(np.stack([crop.image for crop in crops])[:, None])
        labels = torch.tensor([crop.label for crop in crops], dtype=torch.int64)
        uncomposed = sum(1 for crop in crops if crop.failed)
        return Batch(images.to(self._device), labels.to(self._device), [crop.rows for crop in crops], uncomposed)

    def _mixed(self, epoch: int) -> int:
        return int(np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)[0])


class _Places(Iterable[tuple[int, int]]):
    """A sampler without length: (epoch, index) in order."""

    def __init__(self, places: Iterator[tuple[int, int]]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self._places
