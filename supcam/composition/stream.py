"""Composition on the fly: labelled batches that are a function of (seed, epoch, index), composed ahead of their use."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from supcam.composition.composer import Composer, Composite
from supcam.composition.masks import Grey
from supcam.composition.sources import Sources
from supcam.composition.workers import Workers, results
from supcam.errors import UsageError
from supcam.serving.images import square_of
from supcam.settings import ComposeSettings

_BLOCK = 32  # composites of one batch


@dataclass(frozen=True)
class Batch:
    """Crops of one call.

    Attributes:
        images: (B, 1, S, S) on white.
        labels: (B,) ClusterType.
        rows: Sources of each, by their position among the crops; one where nothing could be composed.
        uncomposed: reason -> how many sources stand in for composites that could not be made.
    """

    images: Grey
    labels: NDArray[np.int64]
    rows: list[tuple[int, ...]]
    uncomposed: Counter[str]


class ComposedStream:
    """Composes training batches with the composer that makes the composed set."""

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

    def batch(self, epoch: int, indices: Sequence[int]) -> Batch:
        """The composites of these indices in this epoch; the same whatever the batch they are asked for in."""
        seed, reasons = self.epoch_seed(epoch), Counter[str]()
        images, labels, rows = [], [], []
        for index in indices:
            made = self._composer.compose(seed, index)
            if isinstance(made, Composite):
                image, label, sources = made.image, int(made.type), tuple(placed.row for placed in made.placed)
            else:
                image, label, sources = self._stand_in(seed, index)
                reasons[made.reason] += 1
            images.append(square_of(image, self._size, self._scale))
            labels.append(label)
            rows.append(sources)
        return Batch(np.stack(images)[:, None], np.array(labels, dtype=np.int64), rows, reasons)

    def epoch_seed(self, epoch: int) -> int:
        """The composer's seed in this epoch, 64 bits."""
        return int(np.random.SeedSequence((self._seed, epoch)).generate_state(1, np.uint64)[0])

    def _stand_in(self, seed: int, index: int) -> tuple[Grey, int, tuple[int, ...]]:
        """An un-composed source for an index of which nothing came, its label and row."""
        rng = np.random.default_rng((seed, index, 1))
        row = self._composer.rows[int(rng.integers(len(self._composer.rows)))]
        return self._crops.images[row], int(self._crops.labels[row]), (row,)


class ComposedEpochs:
    """Whole epochs of a stream, ``count`` composites each.

    With more than one worker they are composed by processes of their own, those of the next epoch while the present
    one is in use. The composites are the same whatever the number of workers and whichever epochs were asked for
    before. The processes end with the last of ``epochs``, or with ``close``.
    """

    def __init__(self, stream: ComposedStream, *, count: int, epochs: int, workers: int) -> None:
        self._stream, self._last = stream, epochs - 1
        self._blocks = [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
        # A worker without a block would only cost its start.
        self._workers = Workers(stream, min(workers, len(self._blocks))) if workers > 1 and count else None
        self._ahead: tuple[int, deque[Future[Batch]]] = (-1, deque())

    def take(self, epoch: int) -> Iterator[Batch]:
        """The composites of an epoch in the order of their indices, in batches of equal length but for the last.

        Raises:
            SupcamError: when composition failed in a worker, or one was killed.
        """
        if self._workers is None:
            for block in self._blocks:
                yield self._stream.batch(epoch, block)
            return
        try:
            yield from results(self._asked_for(epoch, self._workers))
        except BaseException:
            self.close()
            raise
        if epoch >= self._last:
            self.close()

    def close(self) -> None:
        """End the worker processes; ``take`` composes in this one from here on."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _asked_for(self, epoch: int, workers: Workers[ComposedStream]) -> deque[Future[Batch]]:
        """What the workers make of an epoch; they are asked for the next one as well."""
        ready, waiting = self._ahead
        if ready != epoch:  # the first epoch, or one that a resumed run jumps to
            for future in waiting:
                future.cancel()
            waiting = workers.submit(_batch_of, [(epoch, block) for block in self._blocks])
        # Now and not once this epoch is complete, so that no worker idles while its last blocks are waited for.
        following = [(epoch + 1, block) for block in self._blocks] if epoch < self._last else []
        self._ahead = (epoch + 1, workers.submit(_batch_of, following))
        return waiting


def _batch_of(stream: ComposedStream, job: tuple[int, range]) -> Batch:
    return stream.batch(*job)
