"""On-the-fly batches: a function of (seed, epoch, index), whatever batch they come in."""

import torch

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite, SourceCrops
from supcam.composition.stream import ComposedStream
from supcam.data.images import letterbox
from supcam.settings import ComposeSettings


def test_the_batch_does_not_matter(crops: SourceCrops) -> None:
    stream = ComposedStream(crops, ComposeSettings(), size=64)
    whole = stream.batch(2, range(6))
    again = ComposedStream(crops, ComposeSettings(), size=64)
    parts = [again.batch(2, [5, 4]), again.batch(2, [0, 1, 2, 3])]
    assert whole.images.shape == (6, 1, 64, 64)
    assert whole.images.dtype == torch.uint8
    torch.testing.assert_close(whole.images[[5, 4, 0, 1, 2, 3]], torch.cat([part.images for part in parts]))
    torch.testing.assert_close(whole.labels[[5, 4, 0, 1, 2, 3]], torch.cat([part.labels for part in parts]))


def test_another_epoch_or_seed_composes_anew(crops: SourceCrops) -> None:
    stream = ComposedStream(crops, ComposeSettings(), size=64)
    other = ComposedStream(crops, ComposeSettings(seed=43), size=64)
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


def test_a_source_takes_the_place_of_what_cannot_be_composed(crops: SourceCrops) -> None:
    stream = ComposedStream(crops, ComposeSettings(min_contact=4000, cells=["instance+instance:touch"]), size=64)
    batch = stream.batch(0, range(3))
    assert (batch.labels == ClusterType.INSTANCE).all()
    assert stream.skipped == {"no-admissible-shift": 3}


def test_batches_on_a_gpu_are_those_on_the_cpu(crops: SourceCrops) -> None:
    import pytest

    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    on_cpu = ComposedStream(crops, ComposeSettings(), size=64).batch(0, range(4))
    on_gpu = ComposedStream(crops, ComposeSettings(), size=64, device="cuda").batch(0, range(4))
    torch.testing.assert_close(on_cpu.images, on_gpu.images.cpu())
