"""The whole recipe on given crops: compose from the training part, pre-train, fine-tune, and judge held-out crops."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supcam.composition.dataset import compose_set
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.settings import Settings
from supcam.synthetic.singles import with_drawn
from supcam.training.finetuning import finetune
from supcam.training.prediction import predict_logits
from supcam.training.pretraining import pretrain

Log = Callable[[Mapping[str, float], int], None]


@dataclass
class RecipeResult:
    """What a recipe predicts for crops that it never saw.

    Attributes:
        logits: (N, 4) logarithms of probabilities, in the order of the held-out crops.
        metrics: Metrics of the training itself, such as the validation metrics of the chosen epoch.
        seconds: Wall time of each step; of a job also of ``all``, and ``processor``, that of all cores and children.
        resumed: Whether a job was cut off and resumed, so that its seconds count the last run only.
        device: What a job ran on.
    """

    logits: NDArray[np.float64]
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    resumed: bool = False
    device: str = ""


def run_recipe(
    train: CropSet, validation: CropSet, held_out: CropSet, settings: Settings, state_dir: Path, log: Log | None = None
) -> RecipeResult:
    """Train from random weights as the settings say and predict ``held_out``, which chooses nothing.

    Composites are made of ``train`` alone (none where ``compose.count`` is 0); ``validation`` chooses the epoch.
    Without pre-training (``pretrain.epochs`` is 0) the whole classifier is trained from the start, by cross-entropy
    or jointly with the contrastive loss (``finetune.contrastive_weight``).
    ``state_dir`` keeps checkpoints: the same folder resumes.

    Raises:
        UsageError: for crops or settings that cannot be trained on.
        SupcamError: when the training diverges.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "compose"):
        crops = _with_composites(train, settings, state_dir / "composed")
    encoder = None
    if settings.pretrain.epochs:
        with _timed(seconds, "pretrain"):
            folder = state_dir / "pretrain"
            trained = pretrain(crops, validation, settings, state_dir=folder, log=_prefixed(log, "pretrain"))
        encoder = trained.encoder_state
    with _timed(seconds, "finetune"):
        folder = state_dir / "finetune"
        tuned = finetune(crops, validation, settings, encoder, state_dir=folder, log=_prefixed(log, "finetune"))
    with _timed(seconds, "predict"):
        logits = np.asarray(predict_logits(tuned.model_state, held_out, settings), dtype=np.float64)
    best = tuned.history.iloc[tuned.best_epoch]
    metrics = {"best_epoch": float(tuned.best_epoch)}
    metrics |= {f"validation_{name}": float(best[name]) for name in ("accuracy", "macro_sensitivity") if name in best}
    return RecipeResult(logits, metrics, seconds)


def _with_composites(train: CropSet, settings: Settings, folder: Path) -> CropSet:
    compose, sources = settings.compose, CropSet(train.frame.assign(split="train"), train.images)
    if not compose.count or compose.on_the_fly:
        return with_drawn(sources, compose.drawn, compose.workers)
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        compose_set(with_drawn(sources, compose.drawn, compose.workers), compose, folder)
    return train.concat(CropSet.load(read_manifest(manifest), folder))


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _prefixed(log: Log | None, step: str) -> Log | None:
    if log is None:
        return None
    return lambda row, epoch: log({f"{step}/{name}": value for name, value in row.items()}, epoch)
