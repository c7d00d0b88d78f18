"""What a trial measures: validation macro sensitivity after a short training, with both steps or joint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from supcam.data.crops import CropSet
from supcam.errors import SettingError, UsageError
from supcam.identity import CONTRASTIVE
from supcam.settings import Settings


@dataclass(frozen=True)
class Point:
    """One point of the search space.

    Attributes:
        margin: Radians.
        temperature: Without unit.
        others: Further settings of pre-training by name, those of ``tune.space``.
    """

    margin: float
    temperature: float
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """Every coordinate by the name of its setting in the section ``pretrain``."""
        return {"margin": self.margin, "temperature": self.temperature, **self.others}


class Watch(Protocol):
    """What a trial reports to while it runs.

    Attributes:
        state_dir: Folder for its checkpoints; an interrupted trial is repeated with the same one.
    """

    state_dir: Path

    def report(self, value: float) -> None:
        """An intermediate value, the next in order; raises when the trial is not worth going on with."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Curves for the tracked run of the trial."""


class Objective(Protocol):
    """A value to be as large as possible; picklable, since workers are processes of their own."""

    def __call__(self, point: Point, watch: Watch) -> float:
        """Measure one point."""


@dataclass(frozen=True)
class TrainingObjective:
    """Mean over seeds of the validation macro sensitivity that a short SupCAM training reaches.

    With ``tune.pretrain_epochs`` 0 the training is joint from random weights.

    Attributes:
        train: Training crops, real and composed.
        validation: Crops that judge a point; test crops are never seen here.
        settings: All settings; ``tune`` gives epochs, seeds and what is measured.

    Raises:
        SettingError: without pre-training, where nothing else reads what is searched.

    Intermediate reports are the linear probe after each epoch of pre-training, then the validation macro sensitivity
    after each epoch of fine-tuning, seed by seed, so equal positions compare like with like.
    """

    train: CropSet
    validation: CropSet
    settings: Settings

    def __post_init__(self) -> None:
        chosen = self.settings.tune
        if chosen.pretrain_epochs:
            return
        if chosen.objective == "probe":
            raise SettingError("tune.pretrain_epochs", 0, "1 or more for tune.objective: probe")
        if not self.settings.finetune.contrastive_weight:
            allowed = (
                "1 or more unless finetune.contrastive_weight is above 0: nothing else reads margin and temperature"
            )
            raise SettingError("tune.pretrain_epochs", 0, allowed)
        for name in chosen.space:
            if f"pretrain.{name}" not in CONTRASTIVE:
                allowed = f"1 or more for a search of {name}, which acts in pre-training alone"
                raise SettingError("tune.pretrain_epochs", 0, allowed)

    def __call__(self, point: Point, watch: Watch) -> float:
        """Measure one point.

        Raises:
            UsageError: when there are no validation crops.
        """
        if not len(self.validation):
            raise UsageError("tuning needs validation crops, and the split left none. Raise split.validation.")
        seeds = range(self.settings.runtime.seed, self.settings.runtime.seed + self.settings.tune.seeds)
        values = [self._one_seed(self._short(point, seed), watch, f"seed_{seed}") for seed in seeds]
        return sum(values) / len(values)

    def _short(self, point: Point, seed: int) -> Settings:
        """The settings of one short training."""
        base, chosen = self.settings, self.settings.tune
        shown = base.runtime.progress and chosen.workers == 1
        return base.model_copy(
            update={
                "runtime": base.runtime.model_copy(update={"seed": seed, "progress": shown}),
                "pretrain": base.pretrain.model_copy(update={**point.values, "epochs": chosen.pretrain_epochs}),
                "finetune": base.finetune.model_copy(
                    update={
                        "epochs": chosen.finetune_epochs,
                        "real_epochs": 0,
                        "head_epochs": min(base.finetune.head_epochs, chosen.finetune_epochs - 1),
                    }
                ),
            }
        )

    def _one_seed(self, settings: Settings, watch: Watch, name: str) -> float:
        from supcam.training.finetuning import finetune
        from supcam.training.pretraining import pretrain

        def reported(metric: str) -> Any:
            return lambda _epoch, row: watch.report(row[metric]) if metric in row else None

        folder = watch.state_dir / name
        encoder = None
        if settings.pretrain.epochs:
            pretrained = pretrain(
                self.train,
                self.validation,
                settings,
                state_dir=folder / "pretrain",
                log=_prefixed(watch, f"{name}/pretrain"),
                on_epoch=reported("probe_sensitivity"),
            )
            if self.settings.tune.objective == "probe":
                return _last(pretrained.history, "probe_sensitivity")
            encoder = pretrained.encoder_state
        tuned = finetune(
            self.train,
            self.validation,
            settings,
            encoder,
            state_dir=folder / "finetune",
            log=_prefixed(watch, f"{name}/finetune"),
            on_epoch=reported("macro_sensitivity"),
        )
        return float(tuned.history["macro_sensitivity"].iloc[tuned.best_epoch])


def _prefixed(watch: Watch, prefix: str) -> Any:
    return lambda metrics, step: watch.log({f"{prefix}/{name}": value for name, value in metrics.items()}, step)


def _last(history: Any, column: str) -> float:
    value = float(history[column].iloc[-1]) if column in history and len(history) else math.nan
    if math.isnan(value):
        raise UsageError(
            "tune.objective = 'probe' needs the linear probe of pre-training. "
            "Set pretrain.watch_crops above 0, or tune.objective: finetune."
        )
    return value
