"""The crop bank: what it takes from a crop set, and that a mapped file trains the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from supcam.data.crops import CropSet
from supcam.errors import SettingError, UsageError
from supcam.settings import InputSettings
from supcam.training.crop_bank import CropBank, check_training_crops, crops_digest, is_composed
from tests.training.small import small_crops, small_settings, trained

CPU = torch.device("cpu")


def test_crops_are_decoded_once_to_their_canvas() -> None:
    crops = small_crops(composed=3)
    bank = CropBank.from_crops(crops, InputSettings(size=32), CPU)
    assert bank.images.dtype == torch.uint8
    assert np.array_equal(bank.images.numpy(), crops.canvas(32))
    assert bank.labels.tolist() == crops.labels.tolist()
    assert bank.weights.tolist() == [0.5 if number % 5 == 0 else 1.0 for _ in range(4) for number in range(10)]
    assert bank.composed.tolist() == is_composed(crops).tolist()
    assert int(bank.composed.sum()) == 9
    # Composites of a laboratory are a domain of their own: two laboratories, each with both kinds.
    assert len(np.unique(bank.domains)) == 4


def test_a_mapped_bank_holds_the_same(tmp_path: Path) -> None:
    crops = small_crops()
    mapped = CropBank.from_crops(crops, InputSettings(size=32, memory_map=True), CPU, tmp_path)
    plain = CropBank.from_crops(crops, InputSettings(size=32), CPU)
    assert torch.equal(mapped.images, plain.images)
    assert torch.equal(mapped.take(torch.tensor([3, 0, 3])), plain.take(torch.tensor([3, 0, 3])))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops.npy"]


def test_training_from_a_mapped_file_gives_the_same_weights(tmp_path: Path) -> None:
    weights = [
        trained(
            "pretrain", tmp_path / str(mapped), small_settings(pretrain={"epochs": 1}, input={"memory_map": mapped})
        )
        for mapped in (False, True)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_mapped_bank_needs_a_folder() -> None:
    with pytest.raises(SettingError, match=r"input.memory_map"):
        CropBank.from_crops(small_crops(), InputSettings(size=32, memory_map=True), CPU)


def test_a_type_with_one_crop_is_refused() -> None:
    crops = small_crops()
    alone = crops.subset([0, 1, 10, 11, 12, 20])
    with pytest.raises(UsageError, match=r"type overlapping has 1 training crop; allowed are none or at least 2"):
        check_training_crops(alone, 4, "pretrain.batch_size")


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SettingError, match=r"pretrain.batch_size = 64 is not allowed.*training crops, 40"):
        check_training_crops(small_crops(), 64, "pretrain.batch_size")


def test_a_label_outside_the_four_is_refused() -> None:
    crops = small_crops()
    wrong = CropSet(crops.frame.assign(type=["telocentric", *crops.frame["type"][1:]]), crops.images)
    with pytest.raises(UsageError, match=r"type 'telocentric' is unknown; allowed are instance"):
        check_training_crops(wrong, 4, "pretrain.batch_size")


def test_the_digest_sees_whatever_training_reads_of_a_crop() -> None:
    crops = small_crops()
    images = [image.copy() for image in crops.images]
    images[7][0, 0] -= 1
    changed = [CropSet(crops.frame, images), crops.subset(range(39, -1, -1))]
    for column, value in {"type": "touching", "source": "third", "label_certain": True, "relation": "touch"}.items():
        frame = crops.frame.copy()
        frame.loc[0, column] = value
        changed.append(CropSet(frame, crops.images))
    assert len({crops_digest(each) for each in (crops, *changed)}) == 7
    assert crops_digest(crops) == crops_digest(small_crops())
