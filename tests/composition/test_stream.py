"""On-the-fly batches: a function of (seed, epoch, index), whatever batch they come in."""

from collections.abc import Callable

import pytest
import torch

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite, SourceCrops
from supcam.composition.stream import ComposedStream, DeviceStream, Stream
from supcam.serving.images import letterbox
from supcam.settings import ComposeSettings

Opened = Callable[..., Stream]


@pytest.fixture(params=["one-by-one", "batched"])
def opened(request: pytest.FixtureRequest, crops: SourceCrops) -> Opened:
    def open_stream(**compose: object) -> Stream:
        settings = ComposeSettings(**compose)
        if request.param == "batched":
            return DeviceStream(crops, settings, size=64, device="cpu")
        return ComposedStream(crops, settings, size=64)

    return open_stream


def test_the_batch_does_not_matter(opened: Opened) -> None:
    chains = [0.5, 0.5]
    whole, again = opened(chain_shares=chains).batch(2, range(6)), opened(chain_shares=chains)
    parts = [again.batch(2, [5, 4]), again.batch(2, [0, 1, 2, 3])]
    assert whole.images.shape == (6, 1, 64, 64)
    assert whole.images.dtype == torch.uint8
    torch.testing.assert_close(whole.images[[5, 4, 0, 1, 2, 3]], torch.cat([part.images for part in parts]))
    torch.testing.assert_close(whole.labels[[5, 4, 0, 1, 2, 3]], torch.cat([part.labels for part in parts]))
    assert [whole.rows[index] for index in (5, 4, 0, 1, 2, 3)] == [rows for part in parts for rows in part.rows]


def test_another_epoch_or_seed_composes_anew(opened: Opened) -> None:
    stream, other = opened(), opened(seed=43)
    first = stream.batch(0, range(4)).images
    assert not torch.equal(first, stream.batch(1, range(4)).images)
    assert not torch.equal(first, other.batch(0, range(4)).images)


def test_images_and_labels_are_those_of_the_composer(crops: SourceCrops) -> None:
    settings = ComposeSettings()
    stream, composer = ComposedStream(crops, settings, size=48), Composer(crops, settings)
    batch = stream.batch(3, range(5))
    for index in range(5):
        made = composer.compose(stream._mixed(3), index)
        assert isinstance(made, Composite)
        assert batch.labels[index] == made.type
        assert (batch.images[index, 0].numpy() == letterbox(made.image, 48)).all()


def test_a_source_takes_the_place_of_what_cannot_be_composed(opened: Opened, crops: SourceCrops) -> None:
    batch = opened(min_contact=4000, cells=["instance+instance:touch"], source_tries=2).batch(0, range(3))
    assert (batch.labels == ClusterType.INSTANCE).all()
    assert batch.uncomposed == {"no-admissible-shift": 3}
    for image, (row,) in zip(batch.images, batch.rows, strict=True):
        assert (image[0].numpy() == letterbox(crops.images[row], 64)).all()


def test_batches_on_a_gpu_come_again_and_hold_clusters(crops: SourceCrops) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    batches = [DeviceStream(crops, ComposeSettings(), size=64, device="cuda").batch(0, range(64)) for _ in range(2)]
    assert batches[0].images.is_cuda
    assert torch.equal(batches[0].images, batches[1].images)
    assert (batches[0].labels > 0).float().mean() > 0.9
