"""What one process records of a short pre-training; run under torchrun for two, or imported for a single one."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supcam.models.encoders import build_encoder
from supcam.settings import Settings
from supcam.training.finetuning import finetune
from supcam.training.pretraining import PretrainTask, pretrain
from tests.training.small import small_crops, small_settings

VARIANTS = {
    "group 64": small_settings(runtime={"precision": "64-true"}, model={"norm": "group"}, pretrain={"epochs": 1}),
    "group 32": small_settings(model={"norm": "group"}, pretrain={"epochs": 1}),
    "batch 32": small_settings(pretrain={"epochs": 1}),
}


class Recorder:
    """Losses and gradients of the first steps, and the queue in the end."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.queue: dict[str, Tensor] = {}

    def record(self, settings: Settings) -> "Recorder":
        step, before, end = PretrainTask.training_step, PretrainTask.on_before_optimizer_step, PretrainTask.on_train_end
        recorder = self

        def training_step(task: PretrainTask, batch: Any, batch_idx: int) -> Tensor:
            loss = step(task, batch, batch_idx)
            recorder.losses.append(torch.as_tensor(task.all_gather(loss.detach())).mean())
            return loss

        def on_before_optimizer_step(task: PretrainTask, optimizer: Any) -> None:
            flat = [weight.grad.flatten() for weight in task.network.parameters() if weight.grad is not None]
            recorder.gradients.append(torch.cat(flat).clone())

        def on_train_end(task: PretrainTask) -> None:
            recorder.queue = {name: value.clone() for name, value in task.queue.state_dict().items()}

        PretrainTask.training_step = training_step  # type: ignore[method-assign]
        PretrainTask.on_before_optimizer_step = on_before_optimizer_step  # type: ignore[method-assign]
        PretrainTask.on_train_end = on_train_end  # type: ignore[method-assign]
        try:
            with tempfile.TemporaryDirectory() as folder:
                pretrain(small_crops(), small_crops(per_type=3, seed=9), settings, state_dir=Path(folder))
        finally:
            PretrainTask.training_step = step  # type: ignore[method-assign]
            PretrainTask.on_before_optimizer_step = before  # type: ignore[method-assign]
            PretrainTask.on_train_end = end  # type: ignore[method-assign]
        return self

    def values(self) -> dict[str, Any]:
        return {"losses": torch.stack(self.losses), "gradients": torch.stack(self.gradients), "queue": self.queue}


def finetuned() -> dict[str, Any]:
    """Weights and losses of a head-first joint training that ends on real crops alone.

    The weights are of the best epoch, the losses tell of every one.
    """
    settings = small_settings(
        runtime={"precision": "64-true"},
        model={"norm": "group"},
        finetune={"epochs": 2, "batch_size": 8, "contrastive_weight": 0.35},
    )
    torch.manual_seed(5)
    encoder = build_encoder(settings.model).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(
            small_crops(composed=4), small_crops(per_type=3, seed=9), settings, encoder, state_dir=Path(folder)
        )
    losses = torch.from_numpy(result.history[["loss", "validation_loss"]].to_numpy(copy=True))
    contrast = torch.tensor(result.history["contrastive_loss"].tolist()[:2])
    return {"weights": result.model_state, "losses": losses, "contrast": contrast}


def recorded() -> dict[str, dict[str, Any]]:
    found = {name: Recorder().record(settings).values() for name, settings in VARIANTS.items()}
    return found | {"finetune": finetuned()}


if __name__ == "__main__":
    import os

    torch.save(recorded(), f"{sys.argv[1]}.{os.environ['RANK']}")
