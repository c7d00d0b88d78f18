"""Step 2: a linear head on the pre-trained encoder, trained by cross-entropy, or jointly with the contrastive loss.

The head first, then all layers, and at the end on real crops alone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from supcam.data.crops import CropSet
from supcam.errors import SettingError, UsageError
from supcam.models.classifier import ClusterClassifier
from supcam.models.encoders import build_encoder, channels_last
from supcam.settings import Settings
from supcam.training.checkpoints import portable_state
from supcam.training.crop_bank import check_training_crops, crops_digest, is_composed
from supcam.training.device import check_sharing
from supcam.training.embeddings import sensitivities
from supcam.training.joint import JointContrast
from supcam.training.prediction import averaged_logits
from supcam.training.sampling import real_crops, steps_of
from supcam.training.schedules import averaging_decay, learning_rate_factor
from supcam.training.task import Log, OnEpoch, RunTask, TaskInputs, banks, run, run_identity
from supcam.views import view_seeds

# Views of step 2 are drawn apart from those of step 1, which are numbers 0 and 1.
_VIEW = 2


@dataclass(frozen=True)
class FinetuneResult:
    """What step 2 leaves.

    Attributes:
        model_state: Weights of the classifier by name, of the best epoch.
        history: One row per epoch.
        best_epoch: Number of the epoch with the highest macro sensitivity on validation, then the lowest loss there.
    """

    model_state: dict[str, Tensor]
    history: pd.DataFrame
    best_epoch: int

    @property
    def summary(self) -> str:
        """One line on how the run ended."""
        row = self.history.iloc[self.best_epoch]
        accuracy, sensitivity = (row.get(name, float("nan")) for name in ("accuracy", "macro_sensitivity"))
        return (
            f"{len(self.history)} epochs, best {self.best_epoch}: validation accuracy {accuracy:.3f}, "
            f"macro sensitivity {sensitivity:.3f}"
        )


class FinetuneTask(RunTask):
    """Classifier, its averaged copy, and the best state so far.

    Attributes:
        classifier: The network that is trained.
        averaged: Exponential average of its weights and running statistics; this is what is validated and kept.
        joint: The contrastive loss that is trained beside cross-entropy; None without.
    """

    step = "finetune"
    seed_offset = 1
    strategy_name = "ddp_find_unused_parameters_true"  # the encoder is unused while the head trains alone

    def __init__(self, given: TaskInputs, head_epochs: int) -> None:
        super().__init__(given)
        settings, self.head_epochs = given.settings, head_epochs
        chosen = settings.finetune
        self.remedy = (
            f"Lower finetune.learning_rate (now {chosen.learning_rate}) or finetune.head_learning_rate "
            f"(now {chosen.head_learning_rate}), in the epochs on real crops alone "
            f"finetune.real_learning_rate (now {chosen.real_learning_rate})"
            + (
                f", or finetune.contrastive_weight (now {chosen.contrastive_weight})"
                if chosen.contrastive_weight
                else ""
            )
        )
        self.classifier = channels_last(ClusterClassifier(build_encoder(settings.model)))
        self.averaged = channels_last(ClusterClassifier(build_encoder(settings.model))).requires_grad_(False)
        self.averaged.load_state_dict(self.classifier.state_dict())
        self.best: dict[str, Any] = {"epoch": -1, "sensitivity": -1.0, "loss": float("inf"), "state": {}}
        self.joint = self._contrast() if chosen.contrastive_weight else None
        self.means: list[dict[str, Tensor]] = []
        self.real_steps_per_epoch = steps_of(len(real_crops(given.bank)), chosen.batch_size)

    def _contrast(self) -> JointContrast:
        model = self.settings.model
        width = self.classifier.encoder.num_features
        return JointContrast(width, self.settings.pretrain, batch_norm=model.norm == "batch")

    @property
    def trained(self) -> ClusterClassifier:
        """The classifier, without its averaged copy."""
        return self.classifier

    def result(self) -> dict[str, Any]:
        """Averaged weights of the best epoch, and its number."""
        return {"state": self.best["state"], "best_epoch": self.best["epoch"]}

    def crops_of(self, epoch: int) -> NDArray[np.int64] | None:
        """Real crops in the last epochs: composites are learned by heart and differ from what they imitate."""
        return real_crops(self.bank) if epoch >= self.settings.finetune.epochs else super().crops_of(epoch)

    def steps_before(self, epoch: int) -> int:
        """Number of batches of all epochs before ``epoch``; those on real crops alone are shorter."""
        mixed = min(epoch, self.settings.finetune.epochs)
        return mixed * self.steps_per_epoch + (epoch - mixed) * self.real_steps_per_epoch

    def start_from(self, encoder_state: dict[str, Tensor]) -> None:
        """Take over the weights of step 1.

        Raises:
            UsageError: for weights of another architecture.
        """
        for network in (self.classifier, self.averaged):
            try:
                network.encoder.load_state_dict(encoder_state)
            except RuntimeError:
                raise UsageError(
                    f"the pre-trained weights do not fit the model ({self.settings.model.description}). "
                    "Pre-train again with these settings."
                ) from None

    def configure_optimizers(self) -> Any:
        """SGD with two rates: the head's own while it trains alone, then one schedule for all layers, and a second one
        for the epochs on real crops alone.
        """
        chosen = self.settings.finetune
        scale = chosen.batch_size / 64.0
        joint = [] if self.joint is None else list(self.joint.parameters())
        groups = [
            {"params": list(self.classifier.encoder.parameters()), "lr": chosen.learning_rate * scale},
            {"params": [*self.classifier.head.parameters(), *joint], "lr": chosen.head_learning_rate * scale},
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=chosen.weight_decay, nesterov=True, foreach=True)
        alone, total = self.steps_before(self.head_epochs), self.steps_before(chosen.epochs)
        real = chosen.real_epochs * self.real_steps_per_epoch

        def real_rate(step: int) -> float:
            return chosen.real_learning_rate * learning_rate_factor(step - total, real, 0.0)

        def encoder_factor(step: int) -> float:
            if step >= total:
                return real_rate(step) / chosen.learning_rate
            return 0.0 if step < alone else learning_rate_factor(step - alone, total - alone, chosen.warmup)

        def head_factor(step: int) -> float:
            if step >= total:
                return real_rate(step) / chosen.head_learning_rate
            return 1.0 if step < alone else encoder_factor(step)

        return self.scheduled(optimizer, [encoder_factor, head_factor])

    @property
    def head_only(self) -> bool:
        """Whether the present epoch trains the head alone."""
        return self.current_epoch < self.head_epochs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean label-smoothed cross-entropy of this process's part of a batch, and the weighted contrastive loss."""
        indices, slots = (part.to(self.device) for part in batch)
        seeds = view_seeds(indices, slots, seed=self.settings.runtime.seed, epoch=self.current_epoch, view=_VIEW)
        crops = self.views(self.bank.take(indices), seeds).to(self.classifier.head.weight.dtype)
        labels = self.bank.labels[indices]
        crops = crops.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(not self.head_only):
            features = self.classifier.encoder(crops)
        logits = self.classifier.head(features)
        loss = cross_entropy(logits.float(), labels, label_smoothing=self.settings.finetune.label_smoothing)
        means = {"loss": loss.detach(), "train_accuracy": (logits.argmax(dim=1) == labels).double().mean()}
        # Composites are what the contrastive loss learns from; the last epochs, on real crops, leave both out.
        if self.joint is not None and self.current_epoch < self.settings.finetune.epochs:
            contrast = self._contrasted(crops, features, labels)
            means["contrastive_loss"] = contrast.detach()
            loss = loss + self.settings.finetune.contrastive_weight * contrast
        self.means.append(means)
        self.count_batch(len(indices), loss, batch_idx)
        return loss

    def _contrasted(self, crops: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        assert self.joint is not None
        with torch.no_grad():
            key_features = self.averaged.eval().encoder(crops)
        loss: Tensor
        loss, key = self.joint(features, key_features, labels)
        self.joint.queue.enqueue(*self.gathered(key, labels))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        decay = averaging_decay(self.global_step, self.settings.finetune.average)
        theirs = self.classifier.state_dict()
        for name, kept in self.averaged.state_dict().items():
            if kept.is_floating_point():
                kept.lerp_(theirs[name], 1.0 - decay)
            else:
                kept.copy_(theirs[name])

    def on_train_epoch_start(self) -> None:
        """Hold the encoder still, statistics included, while the head trains alone."""
        super().on_train_epoch_start()
        self.means = []
        self.classifier.train()
        self.classifier.encoder.train(not self.head_only)
        if self.settings.runtime.compile and not self.head_only:
            self.classifier.encoder.compile()

    def on_train_epoch_end(self) -> None:
        """Validate the averaged weights, keep them if they are the best, report."""
        means = torch.stack([torch.stack([value.double() for value in row.values()]) for row in self.means])
        trained = (self.over_processes(means.mean(dim=0)) / self.trainer.world_size).tolist()
        row = {**dict(zip(self.means[0], trained, strict=True)), **self._validated()}
        rank = (row.get("macro_sensitivity", 0.0), -row.get("validation_loss", 0.0))
        # Of equal epochs the later one: it has seen more, and its average has forgotten more of the start.
        if not self.best["state"] or rank >= (self.best["sensitivity"], -self.best["loss"]):
            state = portable_state(self.averaged)
            self.best = {"epoch": self.current_epoch, "sensitivity": rank[0], "loss": -rank[1], "state": state}
        self.finish_epoch(row)

    def _validated(self) -> dict[str, float]:
        if not len(self.validation):
            return {}
        # With the views that predictions average, so that what is chosen is what is used.
        logits = averaged_logits(self.averaged, self.validation.images, self.settings.finetune.test_views)
        labels = self.validation.labels
        predicted, truth = logits.argmax(dim=1).cpu().numpy(), labels.cpu().numpy()
        return {
            "validation_loss": float(cross_entropy(logits, labels)),
            "accuracy": float((predicted == truth).mean()),
            **sensitivities(truth, predicted),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the best state so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the best state so far."""
        super().on_load_checkpoint(checkpoint)
        self.best = checkpoint["best"]


def state_digest(state: dict[str, Tensor] | None) -> str:
    """SHA-256 over the names and bytes of weights, ``none`` without any."""
    if state is None:
        return "none"
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def finetune(
    train: CropSet,
    validation: CropSet,
    settings: Settings,
    encoder_state: dict[str, Tensor] | None,
    *,
    state_dir: Path,
    log: Log | None = None,
    on_epoch: OnEpoch | None = None,
) -> FinetuneResult:
    """Train the classifier of step 2, or go on from ``state_dir``; a finished run there is returned at once.

    Args:
        train: Real training crops and composites (left out when ``finetune.use_composed`` is off).
        validation: Crops that choose the epoch.
        settings: All settings; ``runtime``, ``input``, ``model`` and ``finetune`` matter, and with
            ``finetune.contrastive_weight`` the loss settings of ``pretrain``.
        encoder_state: Weights of step 1; None starts from random weights and trains all layers from the first epoch.
        state_dir, log, on_epoch: As in ``pretrain``.

    Raises:
        UsageError: for training crops, weights or a checkpoint that cannot be used.
        SettingError: for a setting that does not fit the data or the machine.
        SupcamError: when the loss is not finite any more.
    """
    chosen = settings.finetune
    if not chosen.use_composed:
        train = train.subset(~is_composed(train))
    check_training_crops(train, chosen.batch_size, "finetune.batch_size")
    check_sharing("finetune.batch_size", chosen.batch_size)
    head_epochs = chosen.head_epochs if encoder_state is not None else 0
    if head_epochs >= chosen.epochs and head_epochs:
        raise SettingError("finetune.head_epochs", head_epochs, f"fewer than finetune.epochs, {chosen.epochs}")
    data = crops_digest(train) + crops_digest(validation) + state_digest(encoder_state)
    identity = run_identity(settings, "finetune", data)

    def make() -> FinetuneTask:
        bank, watched = banks(train, validation, settings, state_dir, chosen.epochs, composed=chosen.use_composed)
        task = FinetuneTask(TaskInputs(settings, bank, watched, identity, log, on_epoch), head_epochs)
        if encoder_state is not None:
            task.start_from(encoder_state)
        return task

    kept = run(make, settings, identity, state_dir, log, step="finetune", epochs=chosen.epochs + chosen.real_epochs)
    return FinetuneResult(kept["state"], pd.DataFrame(kept["history"]), int(kept["best_epoch"]))
