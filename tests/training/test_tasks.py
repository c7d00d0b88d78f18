"""Both steps as functions: same bytes twice, metrics, pictures, prediction, and what they refuse."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from supcam.errors import SettingError, SupcamError, UsageError
from supcam.losses.self_margin import LossRows
from supcam.models.classifier import InferenceModel
from supcam.models.momentum import MomentumEncoder
from supcam.settings import Settings
from supcam.training.checkpoints import LAST
from supcam.training.crop_bank import CropBank
from supcam.training.finetuning import FinetuneResult, FinetuneTask, finetune
from supcam.training.prediction import load_classifier, predict_logits
from supcam.training.pretraining import PretrainResult, PretrainTask, pretrain
from supcam.training.task import RunTask, TaskInputs
from supcam.views import view_seeds
from tests.training.small import small_crops, small_settings

VALIDATION = small_crops(per_type=4, seed=9)
PRETRAIN_METRICS = {
    "loss", "loss_uniform", "anchors_with_positives", "anchors_without_negatives", "alignment", "uniformity",
    "angle_least", "angle_mean", "knn_sensitivity", "probe_sensitivity", "learning_rate",
    "queue_positives_0", "queue_positives_1", "queue_positives_2", "queue_positives_3",
}  # fmt: skip
MEASURED = {"seconds", "crops_per_second", "memory_mb"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainResult, dict[int, dict[str, float]], Path]:
    logged: dict[int, dict[str, float]] = {}
    folder = tmp_path_factory.mktemp("pretrain")
    result = pretrain(
        small_crops(), VALIDATION, small_settings(), state_dir=folder / "state", pictures=folder / "pictures",
        log=lambda metrics, step: logged.update({step: dict(metrics)}),
    )  # fmt: skip
    return result, logged, folder


@pytest.fixture(scope="module")
def finetuned(
    pretrained: tuple[PretrainResult, object, Path], tmp_path_factory: pytest.TempPathFactory
) -> FinetuneResult:
    folder = tmp_path_factory.mktemp("finetune")
    settings = small_settings(finetune={"epochs": 20, "learning_rate": 0.05})
    return finetune(small_crops(), VALIDATION, settings, pretrained[0].encoder_state, state_dir=folder)


def test_pretraining_reports_every_epoch(pretrained: tuple[PretrainResult, dict[int, dict[str, float]], Path]) -> None:
    result, logged, _ = pretrained
    assert list(result.history["epoch"]) == [0, 1, 2, 3]
    assert set(result.history.columns) == PRETRAIN_METRICS | {"epoch"}
    assert sorted(logged) == [0, 1, 2, 3]
    assert set(logged[3]) == PRETRAIN_METRICS | MEASURED
    assert np.isfinite(result.history.to_numpy(dtype=float)).all()
    assert result.history["anchors_with_positives"].iloc[-1] == 1.0
    assert "4 epochs, loss" in result.summary


def test_pretraining_pictures_start_middle_and_end(pretrained: tuple[PretrainResult, object, Path]) -> None:
    folder = pretrained[2] / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"embedding_{when}.png" for when in ("end", "middle", "start")
    ]
    with Image.open(folder / "embedding_end.png") as picture:
        assert len(set(picture.convert("RGB").getdata())) > 100


def test_two_runs_give_the_same_bytes(pretrained: tuple[PretrainResult, object, Path], tmp_path: Path) -> None:
    first, again = pretrained[0], pretrain(small_crops(), VALIDATION, small_settings(), state_dir=tmp_path)
    assert [n for n in first.encoder_state if not torch.equal(first.encoder_state[n], again.encoder_state[n])] == []
    assert first.history.to_csv() == again.history.to_csv()


def test_another_seed_gives_other_weights(pretrained: tuple[PretrainResult, object, Path], tmp_path: Path) -> None:
    other = pretrain(
        small_crops(), VALIDATION, small_settings(runtime={"seed": 43}, pretrain={"epochs": 1}), state_dir=tmp_path
    )
    assert not torch.equal(
        other.encoder_state["backbone.conv1.weight"], pretrained[0].encoder_state["backbone.conv1.weight"]
    )


def test_files_lie_in_the_state_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    pretrain(small_crops(), VALIDATION, small_settings(pretrain={"epochs": 1}), state_dir=tmp_path / "state")
    assert list((tmp_path / "cwd").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["finished.pt", "last.ckpt"]


def test_accumulation_and_mixed_precision_run(tmp_path: Path) -> None:
    settings = small_settings(
        runtime={"precision": "bf16-mixed"},
        pretrain={"epochs": 1, "accumulate": 2, "loss": "supcon_out", "margin_on": "all"},
    )
    assert np.isfinite(pretrain(small_crops(), VALIDATION, settings, state_dir=tmp_path).history["loss"]).all()


def test_no_epochs_leave_the_random_encoder(tmp_path: Path) -> None:
    result = pretrain(small_crops(), VALIDATION, small_settings(pretrain={"epochs": 0}), state_dir=tmp_path)
    assert result.history.empty
    assert torch.isfinite(result.encoder_state["backbone.conv1.weight"]).all()


def test_a_stopped_run_stops(tmp_path: Path) -> None:
    class Pruned(Exception):
        pass

    def stop(epoch: int, metrics: Mapping[str, float]) -> None:
        assert "knn_sensitivity" in metrics
        if epoch == 1:
            raise Pruned

    with pytest.raises(Pruned):
        pretrain(small_crops(), VALIDATION, small_settings(), state_dir=tmp_path, on_epoch=stop)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PretrainTask.training_step

    def spoiled(task: PretrainTask, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = original(task, batch, batch_idx)
        return loss * torch.nan if task.current_epoch == 2 else loss

    monkeypatch.setattr(PretrainTask, "training_step", spoiled)
    with pytest.raises(SupcamError, match=r"not finite in epoch 2.*Lower pretrain.learning_rate \(now 0.1\)"):
        pretrain(small_crops(), VALIDATION, small_settings(), state_dir=tmp_path)
    kept = torch.load(tmp_path / LAST, weights_only=True)
    assert kept["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["state_dict"].values())


def test_query_and_key_are_two_views_of_a_crop() -> None:
    settings = small_settings()
    bank = CropBank.from_crops(small_crops(), settings.input, torch.device("cpu"))
    task = PretrainTask(TaskInputs(settings, bank, bank, {}))
    indices, slots = torch.tensor([3, 11, 3]), torch.tensor([0, 1, 2])
    query, key, labels = task.draw_views(indices, slots)
    for views, number in ((query, 0), (key, 1)):
        seeds = view_seeds(indices, slots, seed=settings.runtime.seed, epoch=0, view=number)
        torch.testing.assert_close(views, task.views(bank.images[indices], seeds))
    assert (query - key).abs().flatten(1).amax(dim=1).min() > 0.1
    assert (query[0] - query[2]).abs().max() > 0.1  # the same crop, drawn twice in an epoch
    assert labels.tolist() == bank.labels[indices].tolist()


def test_the_margin_rises_and_a_short_run_follows_faster_than_the_momentum_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    margins: list[float] = []
    momenta: list[float] = []
    contrast, update = PretrainTask.contrast, MomentumEncoder.update

    def recorded_contrast(task: PretrainTask, *views: Any) -> LossRows:
        margins.append(views[-1])
        return contrast(task, *views)

    def recorded_update(keys: MomentumEncoder, online: torch.nn.Module, momentum: float) -> None:
        momenta.append(momentum)
        update(keys, online, momentum)

    monkeypatch.setattr(PretrainTask, "contrast", recorded_contrast)
    monkeypatch.setattr(MomentumEncoder, "update", recorded_update)
    chosen = {"epochs": 4, "margin_warmup": 0.5, "momentum_start": 0.5, "momentum_end": 0.99}
    pretrain(small_crops(), VALIDATION, small_settings(pretrain=chosen), state_dir=tmp_path)
    assert margins == pytest.approx([0.4 * step / 10 for step in range(10)] + [0.4] * 10)
    rising = [0.99 - 0.49 * (math.cos(math.pi * max(step - 1, 0) / 19) + 1) / 2 for step in range(20)]
    caps = [(1 + step) / (10 + step) for step in range(20)]
    assert momenta == pytest.approx([min(pair) for pair in zip(rising, caps, strict=True)])
    assert momenta[0] < rising[0] and momenta[-1] < rising[-1]


def test_finetuning_learns_the_drawn_types(finetuned: FinetuneResult) -> None:
    history = finetuned.history
    assert history["macro_sensitivity"].max() > 0.5  # by chance 0.25; the rest depends on the processor's rounding
    ranks = [*zip(history["macro_sensitivity"], -history["validation_loss"], history["epoch"], strict=True)]
    assert finetuned.best_epoch == ranks.index(max(ranks))
    assert f"best {finetuned.best_epoch}" in finetuned.summary
    assert all(value.is_contiguous() for value in finetuned.model_state.values())


def test_of_equal_epochs_the_later_one_is_kept(tmp_path: Path) -> None:
    settings = small_settings(finetune={"epochs": 2, "real_epochs": 0})
    nothing = VALIDATION.subset([])  # nothing to tell the epochs apart by
    assert finetune(small_crops(), nothing, settings, None, state_dir=tmp_path).best_epoch == 1


def test_the_head_trains_alone_first(
    pretrained: tuple[PretrainResult, object, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(finetune={"epochs": 2, "head_epochs": 1, "average": 0.0})
    kept: dict[str, torch.Tensor] = {}
    state = pretrained[0].encoder_state

    def stop_after_the_head(epoch: int, metrics: Mapping[str, float]) -> None:
        raise InterruptedError

    original = FinetuneTask.finish_epoch

    def keep(task: FinetuneTask, row: Mapping[str, float]) -> None:
        kept.update({name: value.clone() for name, value in task.classifier.encoder.state_dict().items()})
        original(task, row)

    monkeypatch.setattr(FinetuneTask, "finish_epoch", keep)
    with pytest.raises(InterruptedError):
        finetune(small_crops(), VALIDATION, settings, state, state_dir=tmp_path, on_epoch=stop_after_the_head)
    assert [name for name in state if not torch.equal(kept[name], state[name])] == []


def test_the_last_epochs_see_real_crops_alone_at_their_own_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[bool]] = {}
    rates: dict[int, list[float]] = {}
    original = FinetuneTask.training_step

    def watched(task: FinetuneTask, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        seen.setdefault(task.current_epoch, set()).update(task.bank.composed[batch[0].numpy()].tolist())
        groups = task.trainer.optimizers[0].param_groups
        rates.setdefault(task.current_epoch, []).extend(group["lr"] for group in groups)
        return original(task, batch, batch_idx)

    monkeypatch.setattr(FinetuneTask, "training_step", watched)
    settings = small_settings(finetune={"epochs": 2, "real_epochs": 2, "real_learning_rate": 0.02, "batch_size": 16})
    history = finetune(small_crops(composed=5), VALIDATION, settings, None, state_dir=tmp_path).history
    assert len(history) == 4
    assert seen == {0: {True, False}, 1: {True, False}, 2: {False}, 3: {False}}
    scale = 16 / 64
    # Two steps an epoch of 25 real crops, along half a cosine; the same for encoder and head.
    expected = [0.02 * scale * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [*rates[2], *rates[3]] == pytest.approx([rate for rate in expected for _ in range(2)])


def drawn_first(step: str, share: float | None) -> Settings:
    """Four epochs of a step, the first of them on drawn crops."""
    sections: dict[str, dict[str, Any]] = {
        "compose": {"drawn": {"looks": 1, "share": 1.0}},
        step: {"epochs": 4, "drawn_first": share} | ({"real_epochs": 0} if step == "finetune" else {}),
    }
    return small_settings(**({"finetune": {"epochs": 4}} | sections))


@pytest.mark.parametrize("step", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("share", "expected"),
    [(None, [{True, False}] * 4), (0.0, [{False}] * 4), (0.5, [{True}] * 2 + [{False}] * 2), (1.0, [{True}] * 4)],
)
def test_epochs_on_drawn_crops_come_first(step: str, share: float | None, expected: list[set[bool]]) -> None:
    """What a task hands out in each epoch, without training on it."""
    settings = drawn_first(step, share)
    crops = (small_crops(composed=6), VALIDATION)
    train, watched = (CropBank.from_crops(part, settings.input, torch.device("cpu")) for part in crops)
    given = TaskInputs(settings, train, watched, {})
    task: RunTask = PretrainTask(given) if step == "pretrain" else FinetuneTask(given, 0)
    seen = []
    for epoch in range(4):
        trainer = mock.Mock(current_epoch=epoch, world_size=1, global_rank=0)
        task.trainer = trainer  # a task refers to it weakly
        batches = [indices for indices, _ in task.train_dataloader()]
        assert len(batches) == 5  # 40 crops, whichever part an epoch is drawn from
        seen.append(set(train.drawn[torch.cat(batches).numpy()].tolist()))
    assert seen == expected


@pytest.mark.parametrize("step", ["pretrain", "finetune"])
def test_a_training_takes_drawn_crops_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    seen: dict[int, set[bool]] = {}
    steps: Counter[int] = Counter()
    task = PretrainTask if step == "pretrain" else FinetuneTask
    original = task.training_step

    def watched(self: RunTask, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        seen.setdefault(self.current_epoch, set()).update(self.bank.drawn[batch[0].numpy()].tolist())
        steps[self.current_epoch] += 1
        return original(self, batch, batch_idx)

    monkeypatch.setattr(task, "training_step", watched)
    settings, train = drawn_first(step, 0.5), small_crops(composed=6)
    if step == "pretrain":
        pretrain(train, VALIDATION, settings, state_dir=tmp_path)
    else:
        finetune(train, VALIDATION, settings, None, state_dir=tmp_path)
    assert list(seen.values()) == [{True}, {True}, {False}, {False}]
    assert set(steps.values()) == {5}


def test_epochs_on_drawn_crops_need_drawn_clusters(tmp_path: Path) -> None:
    settings = small_settings(
        compose={"drawn": {"looks": 1, "share": 1.0}}, finetune={"drawn_first": 0.5, "use_composed": False}
    )
    with pytest.raises(SettingError, match=r"finetune\.drawn_first = 0\.5 .* no cluster is drawn"):
        finetune(small_crops(composed=6), VALIDATION, settings, None, state_dir=tmp_path)


def test_steps_before_an_epoch_are_counted_by_what_it_sees() -> None:
    settings = small_settings(finetune={"epochs": 2, "real_epochs": 2, "batch_size": 8})
    crops = (small_crops(composed=5), VALIDATION)  # 40 crops, 25 of them real: 5 and 3 batches of 8
    train, watched = (CropBank.from_crops(part, settings.input, torch.device("cpu")) for part in crops)
    task = FinetuneTask(TaskInputs(settings, train, watched, {}), 0)
    assert [task.steps_before(epoch) for epoch in range(5)] == [0, 5, 10, 13, 16]


def test_predicted_logits_are_those_of_the_packaged_model(finetuned: FinetuneResult) -> None:
    settings = small_settings()
    logits = predict_logits(finetuned.model_state, VALIDATION, settings)
    model = InferenceModel(load_classifier(finetuned.model_state, settings), views=8).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(VALIDATION.canvas(32)))
    assert logits.shape == (16, 4)
    assert logits.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(logits).softmax(dim=1), expected, rtol=1e-4, atol=1e-5)
    assert predict_logits(finetuned.model_state, VALIDATION.subset([]), settings).shape == (0, 4)


def test_composites_are_left_out_when_the_setting_says_so(tmp_path: Path) -> None:
    settings = small_settings(finetune={"use_composed": False, "batch_size": 32})
    with pytest.raises(SettingError, match=r"finetune.batch_size = 32 is not allowed.*training crops, 25"):
        finetune(small_crops(composed=5), VALIDATION, settings, None, state_dir=tmp_path)


@pytest.mark.parametrize("stage", ["finetune", "predict"])
def test_weights_of_another_architecture_are_refused(
    stage: str, pretrained: tuple[PretrainResult, object, Path], finetuned: FinetuneResult, tmp_path: Path
) -> None:
    other = small_settings(model={"encoder": "resnet18"})
    with pytest.raises(
        UsageError, match=r"do not fit the model \(encoder resnet18, width 16, norm batch, pooling average\)"
    ):
        if stage == "finetune":
            finetune(small_crops(), VALIDATION, other, pretrained[0].encoder_state, state_dir=tmp_path)
        else:
            predict_logits(finetuned.model_state, VALIDATION, other)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"temperature": 0.001}, r"pretrain.temperature = 0.001 is not allowed"),
        ({"margin": 1.6}, r"pretrain.margin = 1.6 is not allowed"),
        ({"queue_size": 4}, r"queue_size 4 must be at least batch_size 8"),
    ],
)
def test_settings_out_of_range_are_refused(section: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        small_settings(pretrain=section)


def test_a_missing_gpu_is_named(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingError, match=r"runtime.device = 'cuda' is not allowed; allowed: auto or cpu"):
        pretrain(small_crops(), VALIDATION, small_settings(runtime={"device": "cuda"}), state_dir=tmp_path)


def test_histories_are_plain_tables(finetuned: FinetuneResult, tmp_path: Path) -> None:
    finetuned.history.to_csv(tmp_path / "history.csv", index=False)
    read = pd.read_csv(tmp_path / "history.csv")
    assert {"epoch", "loss", "validation_loss", "accuracy", "macro_sensitivity"} <= set(read.columns)
    assert not MEASURED & set(read.columns)
