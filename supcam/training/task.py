"""What both steps of training share: batches, history, checkpoints, resuming, and the progress bar."""

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from supcam.models import torchvision_cpu  # noqa: F401  (first: lightning needs it to import)

import lightning as L  # isort: skip
import numpy as np  # isort: skip
from lightning.pytorch.callbacks import Checkpoint  # isort: skip

from supcam.data.crops import CropSet
from supcam.errors import SettingError, SupcamError
from supcam.identity import identity
from supcam.processes import processes
from supcam.progress import ProgressLines, new_bar
from supcam.settings import FinetuneSettings, PretrainSettings, Settings
from supcam.training.checkpoints import FINISHED, LAST, load_whole, remove_partials, save_whole
from supcam.training.crop_bank import CropBank
from supcam.training.device import check_compiler, choose_device, choose_precision, memory_mb, reproducible
from supcam.training.fresh_bank import training_bank
from supcam.training.sampling import drawn_or_others, epoch_plan, steps_of
from supcam.views import TrainViews

Step = Literal["pretrain", "finetune"]
Log = Callable[[Mapping[str, float], int], None]
OnEpoch = Callable[[int, dict[str, float]], None]
BAR_METRICS = ("loss", "loss_uniform", "knn_sensitivity", "macro_sensitivity")
# Different in every run: logged, but kept out of histories, which are the same bytes in every run.
MEASURED = ("seconds", "crops_per_second", "memory_mb")
_CHECK_EVERY = 32


def run_identity(settings: Settings, step: Step, data: str) -> dict[str, str]:
    """What a checkpoint must share with the run that resumes from it, by name."""
    # The format that was chosen, not "auto": the same folder may be resumed on another machine.
    precision = choose_precision(settings.runtime, choose_device(settings.runtime))
    return identity(settings, step, {"data": data}) | {"runtime.precision": json.dumps(precision)}


@dataclass(frozen=True)
class TaskInputs:
    """What a task of either step is made from.

    Attributes:
        settings: All settings.
        bank: Crops to train on.
        watched: Crops of validation.
        identity: What determines the run, see ``run_identity``.
        log: Called with the metrics of every epoch and its number.
        on_epoch: Called after every epoch; may raise to stop the run.
    """

    settings: Settings
    bank: CropBank
    watched: CropBank
    identity: dict[str, str]
    log: Log | None = None
    on_epoch: OnEpoch | None = None


class RunTask(L.LightningModule):
    """A Lightning task that plans its batches, keeps its history and reports once per epoch.

    ``batch_size`` is the batch over all processes; each takes its consecutive part of it.

    Attributes:
        step: The section of the settings that it trains by.
        seed_offset: Added to ``runtime.seed`` for the plan of batches, so that the steps see different ones.
        strategy_name: How several processes share the work.
        history: One row of plain numbers per finished epoch, the same bytes in every run.
        steps_per_epoch: Number of batches of an epoch.
        remedy: Which settings to change when the loss diverges, for the message; set by each task.
    """

    step: Step
    seed_offset = 0
    strategy_name = "ddp"
    remedy: str

    def __init__(self, given: TaskInputs) -> None:
        super().__init__()
        self.settings, self.bank, self.validation, self.identity = (
            given.settings,
            given.bank,
            given.watched,
            given.identity,
        )
        self.views = TrainViews(self.settings.input.size)
        self.history: list[dict[str, float]] = []
        self.steps_per_epoch = steps_of(len(self.bank), self.chosen.batch_size)
        if self.chosen.drawn_first and not (self.bank.drawn & (self.bank.labels.cpu().numpy() > 0)).any():
            allowed = "empty or 0 for crops of which no cluster is drawn"
            raise SettingError(f"{self.step}.drawn_first", self.chosen.drawn_first, allowed)
        self._log_row, self._on_epoch = given.log, given.on_epoch
        self._started = time.perf_counter()
        self._crops = 0

    @property
    def chosen(self) -> PretrainSettings | FinetuneSettings:
        """The settings of this step."""
        return self.settings.pretrain if self.step == "pretrain" else self.settings.finetune

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The network whose weights the optimiser changes."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What the finished run leaves besides its history."""

    def scheduled(self, optimizer: torch.optim.Optimizer, factors: Any) -> dict[str, Any]:
        """What Lightning asks for: an optimiser, and the factors on its rates as functions of the step."""
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def crops_of(self, epoch: int) -> NDArray[np.int64] | None:
        """Numbers of the crops that an epoch draws from; None means all."""
        share = self.chosen.drawn_first
        if share is None:
            return None
        return drawn_or_others(self.bank, epoch < round(share * self.chosen.epochs))

    def steps_before(self, epoch: int) -> int:
        """Number of batches of all epochs before ``epoch``."""
        return epoch * self.steps_per_epoch

    def train_dataloader(self) -> DataLoader[Any]:
        """This process's part (indices, slots) of every batch of the present epoch."""
        chosen, epoch = self.chosen, self.current_epoch
        # Epochs after the last of `epochs` are on real crops, and keep the composites that stand in for rare types.
        self.bank.start_epoch(min(epoch, chosen.epochs - 1))
        drawn = epoch_plan(
            self.bank,
            batch_size=chosen.batch_size,
            seed=self.settings.runtime.seed + self.seed_offset,
            epoch=epoch,
            balance=chosen.balance,
            min_instance_share=chosen.min_instance_share,
            among=self.crops_of(epoch),
            steps=self.steps_before(epoch + 1) - self.steps_before(epoch),
        )
        plan = torch.from_numpy(drawn)
        slots = torch.arange(plan.numel()).reshape(plan.shape)
        share = plan.shape[1] // self.trainer.world_size
        mine = slice(self.global_rank * share, (self.global_rank + 1) * share)
        return DataLoader(list(zip(plan[:, mine], slots[:, mine], strict=True)), batch_size=None)  # type: ignore[arg-type]

    def on_train_epoch_start(self) -> None:
        """Seed what is random inside the network by the epoch, so that resuming meets the same numbers."""
        torch.manual_seed(self.settings.runtime.seed * 1_000_003 + self.current_epoch)
        self._started, self._crops = time.perf_counter(), 0

    def count_batch(self, crops: int, loss: Tensor, batch_idx: int) -> None:
        """Count the crops of a batch, and refuse a loss that is not finite (looked at seldom: a GPU would wait)."""
        self._crops += crops * self.trainer.world_size
        if batch_idx % _CHECK_EVERY == 0:
            self.refuse_nan(loss.detach())

    def refuse_nan(self, value: Tensor) -> None:
        """Stop the run when a value is not finite.

        Raises:
            SupcamError: naming the settings to change.
        """
        if not bool(torch.isfinite(value).all()):
            raise SupcamError(
                f"{self.step}: loss or weights are not finite in epoch {self.current_epoch}, step "
                f"{self.global_step}. {self.remedy}; the checkpoint of the last good epoch is kept in "
                f"{self.trainer.default_root_dir}."
            )

    def gathered(self, keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, D) and labels (B,) of all processes, in the order of the batch that they share."""
        if self.trainer.world_size == 1:
            return keys, labels
        gathered = [torch.as_tensor(self.all_gather(part)).flatten(0, 1) for part in (keys, labels)]
        return gathered[0], gathered[1]

    def over_processes(self, sums: Tensor) -> Tensor:
        """Sums (...) of this process added over all of them; not finite ones, or such weights, stop the run."""
        self.refuse_nan(torch.stack([weights.detach().sum() for weights in self.trained.parameters()]))
        if self.trainer.world_size > 1:
            sums = torch.as_tensor(self.all_gather(sums)).sum(dim=0)
        self.refuse_nan(sums)
        return sums

    def finish_epoch(self, metrics: Mapping[str, float]) -> None:
        """Store and report an epoch's metrics; ``on_epoch`` may raise to stop the run."""
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        row = {**metrics, **self.bank.metrics(), "learning_rate": rate}
        seconds = time.perf_counter() - self._started
        kept = {"epoch": float(self.current_epoch), **row}
        self.history.append(kept)
        measured = dict(zip(MEASURED, (seconds, self._crops / seconds, memory_mb(self.device)), strict=True))
        if self._log_row is not None and self.global_rank == 0:
            self._log_row({**row, **measured}, self.current_epoch)
        if self._on_epoch is not None:
            self._on_epoch(self.current_epoch, {**kept, **measured})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not keep."""
        checkpoint["identity"] = self.identity
        checkpoint["history"] = self.history
        checkpoint["random_state"] = torch.random.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up history and random state, and report the epochs that this process did not see."""
        self.history = [dict(row) for row in checkpoint["history"]]
        torch.random.set_rng_state(checkpoint["random_state"])
        _replay(self.history, self._log_row)


def _replay(history: list[dict[str, float]], log_row: Log | None) -> None:
    """Log finished epochs again, so that the tracking run of a resumed training is complete."""
    if log_row is not None:
        for row in history:
            log_row({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))


def banks(
    train: CropSet, validation: CropSet, settings: Settings, state_dir: Path, epochs: int, *, composed: bool = True
) -> tuple[CropBank, CropBank]:
    """Training and validation crops on the device of the run; only the training crops are ever mapped from a file."""
    device = choose_device(settings.runtime)
    in_memory = settings.input.model_copy(update={"memory_map": False})
    bank = training_bank(train, settings, device, state_dir, composed=composed, epochs=epochs)
    return bank, CropBank.from_crops(validation, in_memory, device)


def run(
    make: Callable[[], RunTask],
    settings: Settings,
    identity: dict[str, str],
    state_dir: Path,
    log: Log | None,
    *,
    step: Step,
    epochs: int,
    accumulate: int = 1,
) -> dict[str, Any]:
    """Train a task to its end, or go on from ``state_dir``; a finished run there is returned at once.

    ``make`` builds the task, under the seed of the run; 0 ``epochs`` leave it untrained. Returned are its ``history``
    and what its ``result`` gives.
    """
    finished = state_dir / FINISHED
    if finished.exists():
        kept = load_whole(finished, identity)
        _replay(kept["history"], log)
        return kept
    with reproducible(settings.runtime, settings.runtime.seed):
        task = make()
        try:
            if epochs:
                fit(task, step, epochs, accumulate, state_dir)
        finally:
            task.bank.close()
        kept = {"identity": identity, "history": task.history, **task.result()}
    if task.global_rank == 0:
        save_whole(kept, finished)
    return kept


class KeepLast(Checkpoint):
    """Writes the whole state after every epoch.

    Lightning's ``ModelCheckpoint`` would do, were its files whole or not there: it writes to the system's temporary
    folder and moves from there, which is a copy between file systems and may be cut off in the middle.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after the task's own epoch end, which has checked that the weights are finite."""
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            save_whole(state, self.path)
        trainer.strategy.barrier()


class LiveProgress(L.Callback):
    """How far all steps of a run are: a bar on a terminal, else a line every minute; nothing without progress."""

    def __init__(self, task: RunTask, name: str, epochs: int) -> None:
        wanted, terminal = task.settings.runtime.progress, Console(stderr=True).is_terminal
        self.bar = new_bar(hidden=not (wanted and terminal))
        self.lines = ProgressLines(name) if wanted and not terminal else None
        self.task, self.name, self.total = task, name, task.steps_before(epochs)
        self.shown = self.bar.add_task(name, total=self.total)
        self.done = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that training starts from."""
        self.done = self.task.steps_before(trainer.current_epoch)
        self.bar.update(self.shown, completed=self.done)
        if trainer.is_global_zero:
            self.bar.start()
        else:
            self.lines = None

    def on_train_batch_end(self, *_: Any) -> None:
        """One step further."""
        self.done += 1
        self.bar.update(self.shown, completed=self.done)
        if self.lines is not None:
            self.lines(self.done, self.total)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Show the metrics of the epoch before."""
        last = self.task.history[-1] if self.task.history else {}
        text = [f"{name} {last[name]:.3f}" for name in BAR_METRICS if name in last]
        self.bar.update(self.shown, description=", ".join([self.name, *text]))

    def teardown(self, *_: Any, **__: Any) -> None:
        """Close the bar."""
        self.bar.stop()


def fit(task: RunTask, name: str, epochs: int, accumulate: int, folder: Path) -> None:
    """Train ``task``, from the last checkpoint in ``folder`` where there is one; torchrun's processes share it.

    Raises:
        UsageError: for a checkpoint that is truncated or of another run.
        SettingError: where ``runtime.compile`` is set and nothing can be compiled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    last = folder / LAST
    if last.exists():
        load_whole(last, task.identity)
    runtime, world = task.settings.runtime, processes()
    device = choose_device(runtime)
    check_compiler(runtime, device)
    devices: int | list[int] = [device.index] if device.index is not None else 1
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=world if world > 1 else devices,
        strategy=task.strategy_name if world > 1 else "auto",
        precision=choose_precision(runtime, device),
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[LiveProgress(task, name, epochs), KeepLast(folder)],
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic=True,
        default_root_dir=folder,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, ckpt_path=last if last.exists() else None, weights_only=True)
