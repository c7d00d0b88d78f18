"""On-the-fly batches: a function of (seed, epoch, index), whatever batch and whichever process they come from."""

import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import psutil
import pytest

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite
from supcam.composition.sources import SourceCrops
from supcam.composition.stream import Batch, ComposedEpochs, ComposedStream
from supcam.composition.workers import Workers, results
from supcam.errors import SettingError, SupcamError
from supcam.serving.images import letterbox
from supcam.settings import ComposeSettings


def opened(crops: SourceCrops, **compose: object) -> ComposedStream:
    return ComposedStream(crops, ComposeSettings(**compose), size=64)


def test_the_batch_does_not_matter(crops: SourceCrops) -> None:
    chains = [0.5, 0.5]
    whole, again = opened(crops, chain_shares=chains).batch(2, range(6)), opened(crops, chain_shares=chains)
    parts = [again.batch(2, [5, 4]), again.batch(2, [0, 1, 2, 3])]
    assert whole.images.shape == (6, 1, 64, 64)
    assert whole.images.dtype == np.uint8
    order = [5, 4, 0, 1, 2, 3]
    np.testing.assert_array_equal(whole.images[order], np.concatenate([part.images for part in parts]))
    np.testing.assert_array_equal(whole.labels[order], np.concatenate([part.labels for part in parts]))
    assert [whole.rows[index] for index in order] == [rows for part in parts for rows in part.rows]


def test_another_epoch_or_seed_composes_others(crops: SourceCrops) -> None:
    stream, other = opened(crops), opened(crops, seed=43)
    first = stream.batch(0, range(4)).images
    assert (first != stream.batch(1, range(4)).images).any()
    assert (first != other.batch(0, range(4)).images).any()


def test_images_and_labels_are_those_of_the_composer(crops: SourceCrops) -> None:
    stream, composer = opened(crops), Composer(crops, ComposeSettings())
    batch = stream.batch(3, range(5))
    for index in range(5):
        made = composer.compose(stream.epoch_seed(3), index)
        assert isinstance(made, Composite)
        assert batch.labels[index] == made.type
        assert (batch.images[index, 0] == letterbox(made.image, 64)).all()


def test_a_source_takes_the_place_of_what_cannot_be_composed(crops: SourceCrops) -> None:
    stream = opened(crops, min_contact=4000, cells=["instance+instance:touch"], source_tries=2)
    batch = stream.batch(0, range(3))
    assert (batch.labels == ClusterType.INSTANCE).all()
    assert batch.uncomposed == {"no-admissible-shift": 3}
    for image, (row,) in zip(batch.images, batch.rows, strict=True):
        assert (image[0] == letterbox(crops.images[row], 64)).all()


def taken(epochs: ComposedEpochs, epoch: int) -> list[Batch]:
    return list(epochs.take(epoch))


def children() -> list[psutil.Process]:
    """Composing processes of this one; the resource tracker of multiprocessing is none."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_epochs_are_the_same_from_any_number_of_workers_and_in_any_order(crops: SourceCrops) -> None:
    stream = opened(crops)
    here = ComposedEpochs(stream, count=70, epochs=4, workers=1)
    there = ComposedEpochs(stream, count=70, epochs=4, workers=2)
    assert sum(len(batch.labels) for batch in taken(here, 0)) == 70
    for epoch in (0, 1, 3, 2):  # a resumed run jumps; what was composed ahead for epoch 2 is dropped
        for mine, others in zip(taken(here, epoch), taken(there, epoch), strict=True):
            np.testing.assert_array_equal(mine.images, others.images)
            np.testing.assert_array_equal(mine.labels, others.labels)
            assert mine.rows == others.rows
    assert children() == []  # the processes ended with epoch 3, the last


def test_the_next_epoch_is_composed_while_the_present_one_is_in_use(crops: SourceCrops) -> None:
    epochs = ComposedEpochs(opened(crops), count=40, epochs=3, workers=2)
    try:
        taken(epochs, 0)
        ready, waiting = epochs._ahead
        assert ready == 1
        assert [len(future.result(timeout=120).labels) for future in waiting] == [32, 8]
    finally:
        epochs.close()


def test_one_worker_needs_no_process(crops: SourceCrops) -> None:
    epochs = ComposedEpochs(opened(crops), count=4, epochs=2, workers=1)
    taken(epochs, 0)
    assert children() == []


def _fail(_: str, name: str) -> str:
    if name == "setting":
        raise SettingError("compose.count", 0, "more")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ZeroDivisionError("by nought")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("setting", r"in a worker process: SettingError: setting compose\.count = 0 .* Set compose\.workers to 1"),
        ("bug", "in a worker process: ZeroDivisionError: by nought"),
        ("killed", r"ended from outside, most likely for want of memory\. Set compose\.workers lower"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_of_our_errors(name: str, message: str) -> None:
    with Workers("shared", 1) as workers, pytest.raises(SupcamError, match=message) as caught:
        list(results(workers.submit(_fail, [name])))
    assert not isinstance(caught.value, BrokenProcessPool)
    assert children() == []


_ABANDONED = """
import sys, time
from supcam.composition.stream import ComposedEpochs, ComposedStream
from supcam.settings import ComposeSettings
from supcam.synthetic.sample import draw_crops

if __name__ == "__main__":
    stream = ComposedStream(draw_crops(1, 6, 0)[0], ComposeSettings(), size=32)
    epochs = ComposedEpochs(stream, count=64, epochs=9, workers=2)
    list(epochs.take(0))
    print("composed", flush=True)
    time.sleep(600)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path) -> None:
    script = tmp_path / "abandoned.py"
    script.write_text(_ABANDONED)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "composed\n"
        workers = psutil.Process(parent.pid).children()
        assert sum("spawn_main" in " ".join(worker.cmdline()) for worker in workers) == 2
        parent.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
