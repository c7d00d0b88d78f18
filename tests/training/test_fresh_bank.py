"""Other composites in every epoch: the same run whatever interrupts it and however many processes compose."""

import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from supcam.composition.stream import ComposedStream
from supcam.data.crops import CropSet
from supcam.errors import SupcamError, UsageError
from supcam.settings import Settings
from supcam.synthetic.sample import draw_crops
from supcam.training.crop_bank import CropBank
from supcam.training.finetuning import FinetuneResult, finetune
from supcam.training.fresh_bank import FreshBank, training_bank
from supcam.training.pretraining import pretrain
from supcam.training.task import OnEpoch
from tests.training.small import small_crops, small_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawn() -> CropSet:
    """Two cases of drawn chromosomes, and two composites that an earlier stage made."""
    crops, _ = draw_crops(2, 12, 3)
    frame = pd.DataFrame({"crop_id": crops.frame["crop_id"], "type": "instance", "case_id": crops.groups})
    frame = frame.assign(source="drawn", label_certain=True, relation="")
    frame.loc[0, "label_certain"] = False
    old = frame.iloc[[0, 1]].assign(crop_id=["old1", "old2"], relation="touch", type="touching")
    return CropSet(pd.concat([frame, old], ignore_index=True), [*crops.images, *crops.images[:2]])


def settings_of(**compose: object) -> Settings:
    return small_settings(
        compose={"on_the_fly": True, "count": 40, "workers": 1, **compose}, pretrain={"epochs": 3, "watch_crops": 0}
    )


def test_the_composites_of_an_epoch_take_the_place_of_the_set(drawn: CropSet) -> None:
    settings = settings_of()
    bank = FreshBank(drawn, settings, CPU)
    real = drawn.subset(range(24))
    assert len(bank) == 24 + 40
    assert np.array_equal(bank.images[:24].numpy(), real.canvas(32))
    assert bank.labels[:24].tolist() == [0] * 24
    assert bank.composed.tolist() == [False] * 24 + [True] * 40
    bank.start_epoch(2)
    expected = ComposedStream(real, settings.compose, size=32).batch(2, range(40))
    assert np.array_equal(bank.images[24:].numpy(), expected.images)
    assert bank.labels[24:].tolist() == expected.labels.tolist()
    doubtful = [0 in rows for rows in expected.rows]
    assert any(doubtful)
    assert bank.weights[24:].tolist() == [0.5 if flag else 1.0 for flag in doubtful]
    assert len(set(bank.domains[:24]) | set(bank.domains[24:])) == 2


def test_composites_of_drawn_chromosomes_count_as_drawn(drawn: CropSet) -> None:
    """Half of the crops are drawn singles: of their composites, all are drawn; of the others', none."""
    frame = drawn.frame.iloc[:24].reset_index(drop=True)
    first = frame["case_id"] == frame["case_id"][0]
    frame = frame.assign(relation=np.where(first, "drawn", ""), label_certain=True)
    bank = FreshBank(CropSet(frame, drawn.images[:24]), settings_of(drawn={"looks": 1, "share": 0.5}), CPU)
    assert bank.drawn[:24].tolist() == first.tolist()
    assert 0 < bank.drawn[24:].sum() < 40
    again = bank.drawn.copy()
    bank.start_epoch(1)
    assert bank.drawn[:24].tolist() == first.tolist()
    assert not np.array_equal(bank.drawn, again)


def test_every_epoch_differs_and_comes_again(drawn: CropSet) -> None:
    bank = FreshBank(drawn, settings_of(), CPU)
    epochs = []
    for epoch in (0, 1, 2, 1):
        bank.start_epoch(epoch)
        epochs.append(bank.images[24:].clone())
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    assert torch.equal(epochs[1], epochs[3])


def test_a_mapped_bank_composes_the_same(drawn: CropSet, tmp_path: Path) -> None:
    settings = settings_of()
    mapped = settings.model_copy(update={"input": settings.input.model_copy(update={"memory_map": True})})
    plain = FreshBank(drawn, settings, CPU)
    assert torch.equal(plain.images, FreshBank(drawn, mapped, CPU, tmp_path).images)


class Interrupted(Exception):
    pass


def interrupt_after(last: int) -> OnEpoch:
    def interrupt(epoch: int, _: dict[str, float]) -> None:
        if epoch == last:
            raise Interrupted

    return interrupt


@pytest.fixture(scope="module")
def pretrained(drawn: CropSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a whole run, composed in its own process."""
    folder = tmp_path_factory.mktemp("pretrained")
    return pretrain(drawn, drawn.subset([]), settings_of(), state_dir=folder).encoder_state


def test_an_interrupted_run_ends_with_the_same_weights(
    drawn: CropSet, tmp_path: Path, pretrained: dict[str, torch.Tensor]
) -> None:
    settings, nothing = settings_of(), drawn.subset([])
    with pytest.raises(Interrupted):
        pretrain(drawn, nothing, settings, state_dir=tmp_path / "cut", on_epoch=interrupt_after(1))
    resumed = pretrain(drawn, nothing, settings, state_dir=tmp_path / "cut").encoder_state
    assert all(torch.equal(pretrained[name], resumed[name]) for name in pretrained)
    other = pretrain(drawn, nothing, settings_of(seed=7), state_dir=tmp_path / "other").encoder_state
    assert any(not torch.equal(pretrained[name], other[name]) for name in pretrained)


def finetuned(drawn: CropSet, folder: Path, on_epoch: OnEpoch | None = None) -> FinetuneResult:
    """The run of two epochs with composites and three on real crops."""
    settings = settings_of(count=60).model_copy(
        update={"finetune": small_settings(finetune={"epochs": 2, "real_epochs": 3, "batch_size": 8}).finetune}
    )
    torch.manual_seed(5)
    return finetune(drawn, drawn.subset(range(12)), settings, None, state_dir=folder, on_epoch=on_epoch)


@pytest.fixture(scope="module")
def whole(drawn: CropSet, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """That run without an interruption."""
    return finetuned(drawn, tmp_path_factory.mktemp("finetuned"))


@pytest.mark.parametrize("last", [1, 2, 3], ids=["with-composites", "first-on-real-crops", "second-on-real-crops"])
def test_interrupted_fine_tuning_ends_with_the_same_weights(
    drawn: CropSet, tmp_path: Path, whole: FinetuneResult, last: int
) -> None:
    """The epochs on real crops keep the last composites of the types that have hardly any real ones."""
    with pytest.raises(Interrupted):
        finetuned(drawn, tmp_path, interrupt_after(last))
    resumed = finetuned(drawn, tmp_path)
    assert resumed.history["loss"].tolist() == whole.history["loss"].tolist()
    assert all(torch.equal(whole.model_state[name], resumed.model_state[name]) for name in whole.model_state)


def test_a_run_that_composes_ahead_and_is_interrupted_ends_like_one_without_processes(
    drawn: CropSet, tmp_path: Path, pretrained: dict[str, torch.Tensor]
) -> None:
    nothing, ahead = drawn.subset([]), settings_of(workers=2)
    with pytest.raises(Interrupted):
        pretrain(drawn, nothing, ahead, state_dir=tmp_path / "cut", on_epoch=interrupt_after(1))
    assert multiprocessing.active_children() == []
    resumed = pretrain(drawn, nothing, ahead, state_dir=tmp_path / "cut").encoder_state
    assert all(torch.equal(pretrained[name], resumed[name]) for name in pretrained)


def test_only_the_setting_switches_it_on(drawn: CropSet, tmp_path: Path) -> None:
    assert isinstance(training_bank(drawn, settings_of(), CPU, tmp_path, composed=True, epochs=1), FreshBank)
    assert type(training_bank(drawn, settings_of(), CPU, tmp_path, composed=False, epochs=1)) is CropBank
    assert type(training_bank(small_crops(), small_settings(), CPU, tmp_path, composed=True, epochs=1)) is CropBank


def test_crops_of_another_part_are_refused(drawn: CropSet) -> None:
    leaking = CropSet(drawn.frame.assign(split=["train"] * 20 + ["test"] * 6), drawn.images)
    with pytest.raises(SupcamError, match="4 sources are not of the training split"):
        FreshBank(leaking, settings_of(), CPU)


def test_what_cannot_be_composed_is_counted_and_replaced_by_a_good_source(drawn: CropSet) -> None:
    white = CropSet(drawn.frame.assign(relation=""), [*drawn.images[:24], *[np.full((30, 30), 255, np.uint8)] * 2])
    bank = FreshBank(white, settings_of(min_contact=4000, cells=["instance+instance:touch"]), CPU)
    assert bank.metrics() == {"uncomposed": 40.0, "uncomposed/no-admissible-shift": 40.0}
    assert (bank.images[26:].flatten(1).min(dim=1).values < 250).all()
    with pytest.raises(UsageError, match=r"none of 2 training crops can be composed \(2 empty\)"):
        FreshBank(white.subset([24, 25]), settings_of(), CPU)


def test_no_composites_asked_for_leaves_the_crops_as_they_are(drawn: CropSet, tmp_path: Path) -> None:
    bank = training_bank(drawn, settings_of(count=0), CPU, tmp_path, composed=True, epochs=2)
    bank.start_epoch(1)
    assert bank.labels.tolist() == drawn.labels.tolist()
