"""Step 1: supervised contrastive pre-training with a momentum encoder, a labelled queue and the self-margin loss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from supcam.data.crops import CropSet
from supcam.errors import SettingError
from supcam.losses.self_margin import LossRows, SelfMarginLoss
from supcam.models.contrastive import ContrastiveNetwork
from supcam.models.encoders import build_encoder, channels_last
from supcam.models.momentum import MomentumEncoder, momentum_at
from supcam.models.queue import KeyQueue
from supcam.settings import Settings
from supcam.training.checkpoints import portable_state
from supcam.training.crop_bank import CropBank, check_training_crops, crops_digest
from supcam.training.device import check_sharing
from supcam.training.embeddings import (
    class_mean_angles,
    embedding_picture,
    encode,
    linear_probe,
    nearest_neighbours,
    sensitivities,
    spread_over_types,
    uniformity,
)
from supcam.training.schedules import averaging_decay, learning_rate_factor, margin_at
from supcam.training.task import Log, OnEpoch, RunTask, TaskInputs, banks, run, run_identity
from supcam.views import to_input, view_seeds

CALIBRATION_CROPS = 128


@dataclass(frozen=True)
class PretrainResult:
    """What step 1 leaves.

    Attributes:
        encoder_state: Weights of the encoder by name, without the projection head.
        history: One row per epoch.
    """

    encoder_state: dict[str, Tensor]
    history: pd.DataFrame

    @property
    def summary(self) -> str:
        """One line on how the run ended."""
        if self.history.empty:
            return "0 epochs, the encoder stays random"
        last = self.history.iloc[-1]
        return (
            f"{len(self.history)} epochs, loss {last['loss']:.3f} (uniform {last['loss_uniform']:.3f}), "
            f"validation kNN sensitivity {last.get('knn_sensitivity', float('nan')):.3f}"
        )


class PretrainTask(RunTask):
    """Query encoder, key encoder, queue and loss, trained on whole views of a crop bank.

    The keys of all processes are gathered, so that the queue is the same everywhere.
    """

    step = "pretrain"

    def __init__(self, given: TaskInputs, pictures: Path | None = None) -> None:
        super().__init__(given)
        settings, bank, self.pictures = given.settings, given.bank, pictures
        chosen = settings.pretrain
        self.remedy = (
            f"Lower pretrain.learning_rate (now {chosen.learning_rate}) or raise pretrain.temperature "
            f"(now {chosen.temperature})"
        )
        self.network = ContrastiveNetwork(
            build_encoder(settings.model), chosen.projection, batch_norm=settings.model.norm == "batch"
        )
        channels_last(self.network)
        self.momentum = MomentumEncoder(self.network)
        everything = spread_over_types(bank.labels.cpu().numpy(), CALIBRATION_CROPS)
        self.momentum.calibrate(to_input(bank.take(torch.from_numpy(everything)).cpu()))
        self.queue = KeyQueue(chosen.queue_size, chosen.projection)
        self.loss = SelfMarginLoss(chosen.temperature, chosen.margin, chosen.margin_on, chosen.loss)
        self.sums: dict[str, Tensor] = {}
        self._arrived: tuple[Tensor, Tensor]
        if settings.runtime.compile:
            self.network.compile()

    @property
    def trained(self) -> ContrastiveNetwork:
        """The query encoder with its head."""
        return self.network

    def result(self) -> dict[str, Any]:
        """Weights of the query encoder, without the head."""
        return {"state": portable_state(self.network.encoder)}

    def configure_optimizers(self) -> Any:
        """SGD with momentum; the rate rises, then falls by a cosine, step by step."""
        chosen = self.settings.pretrain
        rate = chosen.learning_rate * chosen.batch_size * chosen.accumulate / 256.0
        optimizer = torch.optim.SGD(
            self.network.parameters(), lr=rate, momentum=0.9, weight_decay=chosen.weight_decay, foreach=True
        )
        steps = self.optimizer_steps
        return self.scheduled(optimizer, lambda step: learning_rate_factor(step, steps, chosen.warmup))

    @property
    def optimizer_steps(self) -> int:
        """Number of optimiser steps of the whole run."""
        chosen = self.settings.pretrain
        return chosen.epochs * -(-self.steps_per_epoch // chosen.accumulate)

    def draw_views(self, indices: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query views, key views (B, 1, S, S) and labels (B,) of crop indices (B,) at slots (B,) of the epoch."""
        crops, labels = self.bank.take(indices), self.bank.labels[indices]
        seed, epoch = self.settings.runtime.seed, self.current_epoch
        both = [view_seeds(indices, slots, seed=seed, epoch=epoch, view=view) for view in (0, 1)]
        made = self.views(crops.repeat(2, 1, 1, 1), torch.cat(both)).to(self.queue.keys.dtype)
        query, key = made.contiguous(memory_format=torch.channels_last).chunk(2)
        return query, key, labels

    def contrast(self, query_views: Tensor, key_views: Tensor, labels: Tensor, margin: float) -> LossRows:
        """Loss rows of a batch against the queue; the keys of all processes wait for ``on_after_backward``."""
        query, key = self.network(query_views), self.momentum(key_views)
        queue = self.queue
        rows = self.loss.rows(query, key, labels, queue.keys, queue.labels, queue.valid, margin)
        self._count(rows, query.detach(), key)
        self._arrived = self.gathered(key.to(queue.keys.dtype), labels)
        return rows

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of this process's part of a batch."""
        indices, slots = (part.to(self.device) for part in batch)
        chosen = self.settings.pretrain
        margin = margin_at(self.global_step, self.optimizer_steps, chosen.margin, chosen.margin_warmup)
        loss = self.contrast(*self.draw_views(indices, slots), margin).loss.mean()
        self.count_batch(len(indices), loss, batch_idx)
        return loss

    def on_after_backward(self) -> None:
        """Let the queue take up the keys of the batch, now that backward has read those which they overwrite."""
        self.queue.enqueue(*self._arrived)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the key encoder follow."""
        super().optimizer_step(*args, **kwargs)
        chosen = self.settings.pretrain
        steps = self.optimizer_steps
        momentum = momentum_at(self.global_step - 1, steps, chosen.momentum_start, chosen.momentum_end)
        # In short runs a slow average would stay at the random start: it may look back a share of the run only.
        self.momentum.update(self.network, averaging_decay(self.global_step, momentum))

    def _count(self, rows: LossRows, query: Tensor, key: Tensor) -> None:
        values = {
            "loss": rows.loss.detach().double().sum(),
            "loss_uniform": rows.uniform.sum(),
            "anchors_with_positives": (rows.positives > 1).sum().double(),
            "anchors_without_negatives": (rows.negatives == 0).sum().double(),
            "alignment": (query - key).double().square().sum(),
            "rows": torch.tensor(float(len(query)), dtype=torch.float64, device=query.device),
        }
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    def on_train_epoch_start(self) -> None:
        """Start the sums of the epoch; before the first, picture the untrained encoder."""
        super().on_train_epoch_start()
        self.sums = {}
        if self.current_epoch == 0:
            self._picture("start")

    def on_train_epoch_end(self) -> None:
        """Report the epoch, refusing one that left numbers that are not finite."""
        sums = self.over_processes(torch.stack(list(self.sums.values())))
        total = dict(zip(self.sums, sums.tolist(), strict=True))
        count = total.pop("rows")
        self.finish_epoch({name: value / count for name, value in total.items()} | self._geometry() | self._probes())
        epochs = self.settings.pretrain.epochs
        if self.current_epoch + 1 == epochs // 2:
            self._picture("middle")
        if self.current_epoch + 1 == epochs:
            self._picture("end")

    def _geometry(self) -> dict[str, float]:
        keys, labels = self.queue.held
        counts = torch.bincount(labels, minlength=4).double()
        positives = {f"queue_positives_{code}": float(count) for code, count in enumerate(counts)}
        return {"uniformity": uniformity(keys), **class_mean_angles(keys, labels), **positives}

    def _probes(self) -> dict[str, float]:
        count = self.settings.pretrain.watch_crops
        if not count or not len(self.validation):
            return {}
        features, labels = self._features(self.validation, count)
        self.network.eval()
        with torch.no_grad():
            projected = self.network.head(features)
        self.network.train()
        voted = sensitivities(labels, nearest_neighbours(projected, *self.queue.held))
        row = {"knn_sensitivity": voted["macro_sensitivity"]}
        train, train_labels = self._features(self.bank, count)
        if len(np.unique(train_labels)) > 1:
            probed = linear_probe(train.double().cpu().numpy(), train_labels, features.double().cpu().numpy())
            row["probe_sensitivity"] = sensitivities(labels, probed)["macro_sensitivity"]
        return row

    def _features(self, bank: CropBank, count: int) -> tuple[Tensor, NDArray[np.int64]]:
        labels = bank.labels.cpu().numpy()
        rows = spread_over_types(labels, count)
        return encode(self.network.encoder, bank.take(torch.from_numpy(rows))), labels[rows]

    def _picture(self, when: str) -> None:
        if self.pictures is None or self.global_rank != 0 or len(self.validation) < 3:
            return
        features, labels = self._features(self.validation, self.settings.pretrain.watch_crops or len(self.validation))
        title = f"validation crops at the {when} of pre-training"
        embedding_picture(features.double().cpu().numpy(), labels, title, self.pictures / f"embedding_{when}.png")


def pretrain(
    train: CropSet,
    validation: CropSet,
    settings: Settings,
    *,
    state_dir: Path,
    log: Log | None = None,
    on_epoch: OnEpoch | None = None,
    pictures: Path | None = None,
) -> PretrainResult:
    """Train the encoder of step 1, or go on from ``state_dir``; a finished run there is returned at once.

    Args:
        train: Real training crops and composites.
        validation: Crops that are only watched.
        settings: All settings; ``runtime``, ``input``, ``model`` and ``pretrain`` matter.
        state_dir: Folder for checkpoints, one per run; the same folder resumes.
        log: Called with the metrics of every epoch and its number.
        on_epoch: Called after every epoch; may raise to stop the run.
        pictures: Folder for embedding pictures at start, middle and end.

    Raises:
        UsageError: for training crops or a checkpoint that cannot be used.
        SettingError: for a setting that does not fit the data or the machine.
        SupcamError: when the loss is not finite any more.
    """
    chosen = settings.pretrain
    check_training_crops(train, chosen.batch_size, "pretrain.batch_size")
    if chosen.queue_size < chosen.batch_size:
        raise SettingError("pretrain.queue_size", chosen.queue_size, f"at least the batch size, {chosen.batch_size}")
    check_sharing("pretrain.batch_size", chosen.batch_size)
    identity = run_identity(settings, "pretrain", crops_digest(train))

    def make() -> PretrainTask:
        bank, watched = banks(train, validation, settings, state_dir, chosen.epochs)
        return PretrainTask(TaskInputs(settings, bank, watched, identity, log, on_epoch), pictures)

    kept = run(
        make, settings, identity, state_dir, log, step="pretrain", epochs=chosen.epochs, accumulate=chosen.accumulate
    )
    return PretrainResult(kept["state"], pd.DataFrame(kept["history"]))
