"""Everything around a training run: reproducible torch, a quiet Lightning trainer, resuming, and the summary line."""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from supcam.models import torchvision_cpu  # noqa: F401  (first: lightning needs it to import)

import lightning as L  # isort: skip
from lightning.pytorch.callbacks import Checkpoint  # isort: skip

from supcam.errors import SettingError
from supcam.processes import local_rank, processes
from supcam.settings import RuntimeSettings, Settings
from supcam.training.checkpoints import LAST, load_whole, remove_partials, save_whole

Log = Callable[[Mapping[str, float], int], None]
OnEpoch = Callable[[int, dict[str, float]], None]
BAR_FIGURES = ("loss", "loss_uniform", "knn_sensitivity", "macro_sensitivity")
# Measured, so different in every run: logged, but kept out of histories, which are the same bytes in every run.
MEASURED = ("seconds", "crops_per_second", "memory_mb")


def choose_device(runtime: RuntimeSettings) -> torch.device:
    """The device that ``runtime.device`` names; ``auto`` takes a GPU where there is one.

    That is the first GPU, or in one of several processes of torchrun the one of its own.

    Raises:
        SettingError: when a GPU is named and none is there, or one by its number in several processes, or when there
            are more processes than GPUs.
    """
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError("runtime.device", runtime.device, "auto or cpu on this machine, which has no usable GPU")
    device = torch.device(name)
    if device.type == "cuda" and processes() > 1:
        if ":" in name:
            raise SettingError("runtime.device", runtime.device, "auto, cpu or cuda: each process has its own GPU")
        found = torch.cuda.device_count()
        if local_rank() >= found:
            raise SettingError("runtime.device", runtime.device, f"cpu, or at most {found} processes, one for each GPU")
        device = torch.device("cuda", local_rank())
    return device


def check_sharing(setting: str, batch_size: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Raises:
        SettingError: naming ``setting``.
    """
    if batch_size % processes():
        raise SettingError(setting, batch_size, f"a multiple of the number of processes, {processes()}")


def choose_precision(runtime: RuntimeSettings, device: torch.device) -> Literal["32-true", "bf16-mixed", "64-true"]:
    """The number format that ``runtime.precision`` names.

    ``auto`` takes bf16-mixed where the device has instructions for it: emulated on a processor with AVX2 only, it was
    12 times slower than 32-true, with them a third faster.
    """
    if runtime.precision != "auto":
        return runtime.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # no public name yet
    return "bf16-mixed" if native else "32-true"


def check_compiler(runtime: RuntimeSettings, device: torch.device) -> None:
    """Compile and run a small function where ``runtime.compile`` asks for compiled encoders.

    Raises:
        SettingError: when that does not work; the cause is in the message.
    """
    if not runtime.compile:
        return
    try:
        torch.compile(lambda values: values.sin() + 1.0, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler may raise, training could not start
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "Set it to false, or install a C++ compiler (CPU) or triton (GPU)."
        raise SettingError("runtime.compile", True, f"false on this machine: {cause}", remedy) from None


@contextmanager
def reproducible(runtime: RuntimeSettings, seed: int) -> Iterator[None]:
    """Fix threads, seeds and kernels for the time of a run, and put the former ones back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    kernels: Any = torch.utils.deterministic
    filling = kernels.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
        torch.set_num_threads(runtime.threads)
        torch.use_deterministic_algorithms(True)
        # A net for code that reads memory before writing it; it fills every fresh tensor, a fifth of a step's time.
        kernels.fill_uninitialized_memory = False
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            kernels.fill_uninitialized_memory = filling
            torch.random.set_rng_state(state)
            logger.setLevel(level)


def run_identity(settings: Settings, section: str, data: str) -> dict[str, str]:
    """What a checkpoint must share with the run that resumes from it, by name."""
    runtime = settings.runtime.model_dump(mode="json", exclude={"progress"})
    runtime["precision"] = choose_precision(settings.runtime, choose_device(settings.runtime))
    parts = {"runtime": runtime, "input": settings.input.model_dump(mode="json")}
    parts |= {
        "model": settings.model.model_dump(mode="json"),
        section: getattr(settings, section).model_dump(mode="json"),
    }
    if settings.compose.on_the_fly:
        parts["compose"] = settings.compose.model_dump(mode="json", exclude={"workers"})
    flat = {f"{name}.{key}": json.dumps(value) for name, values in parts.items() for key, value in values.items()}
    return flat | {"data": data}


class RunTask(L.LightningModule):
    """A Lightning task that keeps its history and reports once per epoch.

    Attributes:
        history: One row of plain numbers per finished epoch, the same bytes in every run.
        strategy_name: How several processes share the work.
        steps_per_epoch: Number of batches of an epoch; set by each task.
    """

    strategy_name = "ddp"
    steps_per_epoch: int

    def __init__(self, identity: dict[str, str], log_row: Log | None, on_epoch: OnEpoch | None) -> None:
        super().__init__()
        self.identity = identity
        self.history: list[dict[str, float]] = []
        self._log_row, self._on_epoch = log_row, on_epoch
        self._started = time.perf_counter()
        self._crops = 0

    def steps_before(self, epoch: int) -> int:
        """Number of batches of all epochs before ``epoch``."""
        return epoch * self.steps_per_epoch

    def on_train_epoch_start(self) -> None:
        """Seed what is random inside the network by the epoch, so that resuming meets the same numbers."""
        torch.manual_seed(int(json.loads(self.identity["runtime.seed"])) * 1_000_003 + self.current_epoch)
        self._started, self._crops = time.perf_counter(), 0

    def finish_epoch(self, row: Mapping[str, float]) -> None:
        """Store and report an epoch's figures; ``on_epoch`` may raise to stop the run."""
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
        replay(self.history, self._log_row)


def replay(history: list[dict[str, float]], log_row: Log | None) -> None:
    """Log finished epochs again, so that the tracking run of a resumed training is complete."""
    for row in history if log_row is not None else []:
        assert log_row is not None
        log_row({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))


class KeepLast(Checkpoint):
    """Writes the whole state after every epoch, atomically."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after the task's own epoch end, which has checked that the weights are finite."""
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            save_whole(state, self.path)
        trainer.strategy.barrier()


class LiveProgress(L.Callback):
    """A progress bar on standard error over all steps of a run; none where standard error is no terminal."""

    def __init__(self, name: str, shown: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = not (shown and console.is_terminal)
        self.name = name
        self.bar = Progress(
            *columns, TextColumn("{task.fields[figures]}"), console=console, disable=hidden, transient=True
        )
        self.shown: TaskID | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that training starts from."""
        assert isinstance(pl_module, RunTask)
        total, done = (pl_module.steps_before(epoch) for epoch in (trainer.max_epochs or 0, trainer.current_epoch))
        self.shown = self.bar.add_task(self.name, total=total, completed=done, figures="")
        if trainer.is_global_zero:
            self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        if self.shown is not None:
            self.bar.advance(self.shown)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the figures of the epoch before."""
        history: list[dict[str, float]] = getattr(pl_module, "history", [])
        if self.shown is not None and history:
            figures = {name: history[-1][name] for name in BAR_FIGURES if name in history[-1]}
            text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            self.bar.update(self.shown, figures=text)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar."""
        self.bar.stop()


def fit(task: RunTask, settings: Settings, name: str, epochs: int, accumulate: int, folder: Path) -> None:
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
    device = choose_device(settings.runtime)
    check_compiler(settings.runtime, device)
    world = processes()
    devices: int | list[int] = [device.index] if device.index is not None else 1
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=world if world > 1 else devices,
        strategy=task.strategy_name if world > 1 else "auto",
        precision=choose_precision(settings.runtime, device),
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[LiveProgress(name, settings.runtime.progress), KeepLast(folder)],
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


def memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU where the run uses one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
