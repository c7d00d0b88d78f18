"""Small drawn crops and settings on which both steps train within seconds, and runs in processes that can be killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import torch

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.settings import Settings, parse_settings
from supcam.training.finetuning import FinetuneTask, finetune
from supcam.training.pretraining import PretrainTask, pretrain
from tests.support.drawing import typed_crop


def small_crops(per_type: int = 10, seed: int = 0, composed: int = 0) -> CropSet:
    """Bars on white: one, two apart by a grey halo, two crossing, and both."""
    rng = np.random.default_rng(seed)
    images, rows = [], []
    for code, name in enumerate(TYPE_LABELS):
        for number in range(per_type):
            images.append(typed_crop(code, rng))
            relation = "touch" if code and number >= per_type - composed else ""
            rows.append(
                {
                    "crop_id": f"{name}-{number}", "path": f"{name}/{number}.png", "type": name,
                    "case_id": f"case{number % 3}", "source": "drawn" if number % 2 else "other",
                    "label_certain": number % 5 != 0, "relation": relation,
                }
            )  # fmt: skip
    return CropSet(pd.DataFrame(rows), images)


def small_settings(**sections: dict[str, Any]) -> Settings:
    """Settings of a run that takes about a second per epoch."""
    values: dict[str, dict[str, Any]] = {
        "runtime": {"threads": 1, "progress": False, "device": "cpu"},
        "input": {"size": 32},
        "model": {"encoder": "resnet10", "width": 16},
        "pretrain": {"epochs": 4, "batch_size": 8, "queue_size": 24, "projection": 16, "watch_crops": 16},
        "finetune": {"epochs": 3, "real_epochs": 1, "batch_size": 8},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return parse_settings(values)


# Joint training has all that has to be restored: queue, prototypes and averaged weights.
JOINT = small_settings(finetune={"contrastive_weight": 0.35})


def trained(stage: str, state_dir: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """Weights that a stage leaves on the small crops."""
    train, validation = small_crops(composed=3), small_crops(per_type=3, seed=9)
    if stage == "pretrain":
        return pretrain(train, validation, settings, state_dir=state_dir).encoder_state
    torch.manual_seed(5)
    return finetune(train, validation, settings, None, state_dir=state_dir).model_state


def run_and_die(stage: str, state_dir: Path, moment: str) -> None:
    """Run a stage in this process and kill it at a named moment, by the signal that nothing can catch."""
    _arm(moment)
    trained(stage, state_dir, JOINT)


def run_to_the_end(stage: str, state_dir: Path, result: Path, moment: str) -> None:
    """Run a stage and save its weights."""
    torch.save(trained(stage, state_dir, JOINT), result)


def _arm(moment: str) -> None:
    name, _, number = moment.partition(":")
    left = [int(number)]

    def count_down(*_: Any, **__: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if name == "step":
        for task in (PretrainTask, FinetuneTask):
            _before(task, "training_step", count_down)
    elif name == "epoch end":
        for task in (PretrainTask, FinetuneTask):
            _before(task, "on_train_epoch_end", count_down)
    elif name == "checkpoint write":
        whole = torch.save

        def half(values: Any, stream: IO[bytes]) -> None:
            left[0] -= 1
            if left[0] == 0:
                stream.write(b"PK\x03\x04 the first part of a checkpoint")
                stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            whole(values, stream)

        torch.save = half
    elif name == "rename":
        _before(Path, "replace", count_down)
    else:
        raise ValueError(moment)


def _before(owner: Any, name: str, action: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        action()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)
