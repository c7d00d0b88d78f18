"""Cells of the table: one recipe, seed and fold each, run once, kept by a hash of all that determines them."""

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import SupcamError, UsageError
from supcam.evaluation.metrics import confusion, rates
from supcam.experiments.parts import Parts
from supcam.experiments.recipe import Log, Outcome, run_recipe
from supcam.experiments.rows import SECTIONS
from supcam.experiments.shapes import run_forest
from supcam.files import write_text
from supcam.identity import identity, key_of
from supcam.progress import Progress
from supcam.settings import Settings

RESULT, PREDICTIONS = "cell.json", "predictions.csv"
LOGITS = [f"log_p_{label.replace('-', '_')}" for label in TYPE_LABELS]

_PACKAGE = Path(__file__).parents[1]
_CODE = (
    "experiments/recipe.py",
    "experiments/shapes.py",
    "cluster_type.py",
    "composition",
    "data",
    "serving",
    "losses",
    "models",
    "training",
    "views.py",
)


@dataclass(frozen=True)
class Cell:
    """One training to be judged.

    Attributes:
        row: Name of the row of the table.
        settings: All settings, the row's overrides and the seed among them.
        parts: The crops.
        model: What is trained.
    """

    row: str
    settings: Settings
    parts: Parts
    model: Literal["network", "forest"] = "network"

    @property
    def seed(self) -> int:
        """The seed of composition and training."""
        return self.settings.runtime.seed

    @property
    def name(self) -> str:
        """What a person calls the cell."""
        return f"{self.row}, seed {self.seed}, fold {self.parts.number}"


@dataclass(frozen=True)
class Bench:
    """What all cells share; sent once to each worker process.

    Attributes:
        crops: All crops; cells name their rows.
        state: Folder in which finished cells are kept, one folder per key.
        root: Project of the tracked runs; None tracks nothing.
        parent: Run above those of the cells and its experiment, told so that a worker need not ask the server.
    """

    crops: CropSet
    state: Path
    root: Path | None = None
    parent: tuple[str, str] | None = None

    def key(self, cell: Cell) -> str:
        """Hash of all that determines a cell: crops, settings, model, code."""
        content = {"crops": cell.parts.digest(self.crops.frame), "model": cell.model, "code": code_digest()}
        return key_of(identity(cell.settings, cell.model, content))[:20]

    def result(self, cell: Cell) -> "Result | None":
        """The kept result of a cell; None while it is not finished."""
        folder = self.state / self.key(cell)
        if not (folder / RESULT).is_file():
            return None
        kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / PREDICTIONS, dtype={"crop_id": str}).set_index("crop_id")
        ids = self.crops.frame["crop_id"].iloc[cell.parts.held_out]
        logits = table.loc[ids, LOGITS].to_numpy(dtype=np.float64)
        return Result(logits, kept["figures"], kept["seconds"], kept["resumed"], kept["device"])


@dataclass(frozen=True)
class Result:
    """What is kept of a cell.

    Attributes:
        logits: (N, 4) logarithms of probabilities of the held-out crops.
        figures: Of the training.
        seconds: Wall time of each step and of ``all``, and ``processor``, the time of all cores and child processes.
        resumed: Whether the cell was cut off and resumed, so that its seconds count the last run only.
        device: What it ran on.
    """

    logits: NDArray[np.float64]
    figures: dict[str, float]
    seconds: dict[str, float]
    resumed: bool
    device: str


@dataclass
class RunReport:
    """How the cells went: finished before, run now, and failed with the reason."""

    kept: int = 0
    ran: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@functools.cache
def code_digest() -> str:
    """SHA-256 over the code that determines a cell."""
    files = sorted(file for name in _CODE for file in _python_files(_PACKAGE / name))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.rglob("*.py"))


def run_cells(cells: Sequence[Cell], bench: Bench, workers: int = 1, progress: Progress | None = None) -> RunReport:
    """Run the cells that are not finished, in ``workers`` processes; equal cells run once.

    A cell that fails is reported and the others go on.

    Raises:
        UsageError: for settings or crops that the first such cell cannot be trained on.
        SupcamError: when a worker process was killed.
    """
    report = RunReport()
    open_cells: dict[str, Cell] = {}
    for cell in cells:
        if bench.result(cell) is None:
            open_cells.setdefault(bench.key(cell), cell)
        else:
            report.kept += 1
            _track_kept(cell, bench)
    if progress:
        progress(report.kept, len(cells))
    for cell, error in _outcomes(list(open_cells.values()), bench, workers):
        if error is None:
            report.ran += 1
        else:
            report.failed[cell.name] = error
        if progress:
            progress(report.kept + report.ran + len(report.failed), len(cells))
    return report


def _outcomes(cells: Sequence[Cell], bench: Bench, workers: int) -> Iterator[tuple[Cell, str | None]]:
    if workers == 1:
        for cell in cells:
            yield cell, _attempt(cell, bench)
        return
    # Not forked: torch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, max(len(cells), 1)), context, initializer=_adopt, initargs=(bench,))
    try:
        waiting = {pool.submit(_attempt_adopted, cell): cell for cell in cells}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool:
        raise SupcamError(
            f"one of {workers} workers was ended from outside, most likely for want of memory. Take fewer workers "
            "and run it again: finished cells are kept."
        ) from None
    except BaseException:
        # Not waited for: each cell goes on from its last epoch when the table is run again.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_adopted: Bench | None = None


def _adopt(bench: Bench) -> None:
    """Take what all cells share, and end when the process that started this one is killed."""
    global _adopted
    _adopted = bench
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt_adopted(cell: Cell) -> str | None:
    if _adopted is None:
        raise RuntimeError("a worker was started without its bench")
    try:
        return _attempt(cell, _adopted)
    except UsageError as error:
        raise UsageError(str(error)) from None  # an error that travels between processes is made of its text alone


def _attempt(cell: Cell, bench: Bench) -> str | None:
    """Run a cell; the error as text where it failed by itself and not by a mistake that all cells share."""
    try:
        run_cell(cell, bench)
    except UsageError:
        raise
    except SupcamError as error:
        return str(error)
    return None


def run_cell(cell: Cell, bench: Bench) -> None:
    """Train and predict one cell, or go on where it was cut off, and keep the result."""
    folder = bench.state / bench.key(cell)
    work = folder / "work"
    resumed = work.exists()
    work.mkdir(parents=True, exist_ok=True)
    with _tracked(cell, bench) as run:
        start, busy = time.perf_counter(), _processor_seconds()
        outcome = _train(cell, bench.crops, work, run.log if run else None)
        outcome.seconds |= {"all": time.perf_counter() - start, "processor": _processor_seconds() - busy}
        _keep(cell, bench, outcome, resumed, folder)
        if run:
            _log_result(run, outcome.figures, outcome.seconds, cell, outcome.logits, bench)
    shutil.rmtree(work)


def _processor_seconds() -> float:
    """Time that this process and its finished children have had of all cores."""
    return sum(os.times()[:4])


def _train(cell: Cell, crops: CropSet, work: Path, log: Log | None) -> Outcome:
    train, validation, held_out = (
        crops.subset(rows) for rows in (cell.parts.train, cell.parts.validation, cell.parts.held_out)
    )
    if cell.model == "forest":
        return run_forest(train, held_out, cell.settings)
    return run_recipe(train, validation, held_out, cell.settings, work, log)


def _keep(cell: Cell, bench: Bench, outcome: Outcome, resumed: bool, folder: Path) -> None:
    table = pd.DataFrame(outcome.logits, columns=LOGITS)
    table.insert(0, "crop_id", bench.crops.frame["crop_id"].iloc[cell.parts.held_out].to_numpy())
    write_text(folder / PREDICTIONS, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))
    result = asdict(outcome)
    del result["logits"]
    device = tracking.device_name(cell.settings.runtime.device)
    told = {"cell": cell.name, "resumed": resumed, "device": device, **result}
    write_text(folder / RESULT, json.dumps(told, indent=1, sort_keys=True) + "\n")


@contextmanager
def _tracked(cell: Cell, bench: Bench) -> Iterator[tracking.Run | None]:
    if bench.root is None or bench.parent is None:
        yield None
        return
    tags = {"supcam.row": cell.row, "supcam.seed": cell.seed, "supcam.fold": cell.parts.number}
    parent = tracking.Run.attach(bench.root, *bench.parent)
    with parent.child(cell.name, tags | {"supcam.cell": bench.key(cell)}) as run:
        values = cell.settings.model_dump(mode="json", by_alias=True)
        run.log_params({name: values[name] for name in SECTIONS})
        yield run


def _track_kept(cell: Cell, bench: Bench) -> None:
    """A run for a cell that an earlier invocation finished, so that the run above is whole."""
    result = bench.result(cell)
    with _tracked(cell, bench) as run:
        if run is not None and result is not None:
            run.set_tags({"supcam.cell.kept": "true"})
            _log_result(run, result.figures, result.seconds, cell, result.logits, bench)


def _log_result(
    run: tracking.Run,
    figures: dict[str, float],
    seconds: dict[str, float],
    cell: Cell,
    logits: NDArray[np.float64],
    bench: Bench,
) -> None:
    labels = bench.crops.subset(cell.parts.held_out).labels
    found: dict[str, Any] = rates(confusion(labels, logits.argmax(axis=1)))
    held_out = {f"held_out_{name}": float(value) for name, value in found.items() if value.ndim == 0}
    run.log(figures | {f"seconds/{name}": value for name, value in seconds.items()} | held_out)
