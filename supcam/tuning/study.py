"""A whole study: workers started, watched and replaced, until exactly the wanted number of trials is decided."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from supcam.data.crops import CropSet
from supcam.errors import SupcamError, UsageError
from supcam.settings import Settings
from supcam.tracking import Run
from supcam.tuning.objective import Objective, TrainingObjective
from supcam.tuning.result import TuneResult, collect, space_of
from supcam.tuning.slots import unfinished
from supcam.tuning.storage import open_study, storage_errors
from supcam.tuning.tracked import complete_runs
from supcam.tuning.worker import WorkerTask, work

_DETERMINING = ("profile", "input", "model", "pretrain", "finetune")
_NOT_DETERMINING = {"trials", "workers", "storage", "study"}
_RESTARTS_PER_WORKER = 3
_GOODBYE = 10.0  # seconds that a worker has to give its trial back


def study_key(deps: Mapping[str, str | None], settings: Settings) -> str:
    """Name of a study: a hash of all that determines its trials, so that old data or code never decides.

    Args:
        deps: Content hash by dependency of the stage (split, composed set, code), as ``stage_inputs`` gives it.
        settings: All settings; the number of trials and workers, the storage and the progress bar do not count.
    """
    values = settings.model_dump(mode="json", by_alias=True)
    relevant = {name: values[name] for name in _DETERMINING}
    relevant["runtime"] = {name: value for name, value in values["runtime"].items() if name != "progress"}
    relevant["tune"] = {name: value for name, value in values["tune"].items() if name not in _NOT_DETERMINING}
    text = json.dumps({"deps": dict(deps), "settings": relevant}, sort_keys=True)
    return f"tune-{settings.profile}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def tune(
    train: CropSet,
    validation: CropSet,
    settings: Settings,
    *,
    storage: str,
    study_name: str,
    state_dir: Path,
    run: Run | None = None,
    objective: Objective | None = None,
) -> TuneResult:
    """Find margin and temperature. The same study resumes; a larger ``tune.trials`` adds trials.

    Args:
        train: Training crops, real and composed.
        validation: Crops that judge each point.
        settings: All settings.
        storage: SQLAlchemy address; any number of processes and machines may work on it at once.
        study_name: See ``study_key``; with ``tune.study`` the study has that name, and must have this key.
        state_dir: Folder for the checkpoints of trials, which a repeated trial goes on from.
        run: Tracked run above the runs of the trials.
        objective: What a trial measures, in place of the short training.

    Raises:
        SettingError: when the study exists with another search space, or of other crops, code or settings.
        UsageError: for a mistake that would fail every trial.
        SupcamError: when the storage cannot be used, workers keep dying, or no trial finished.
    """
    task = WorkerTask(
        storage,
        settings.tune.study or study_name,
        settings,
        objective or TrainingObjective(train, validation, settings),
        state_dir,
        study_name,
        run.root if run else None,
        (run.run_id, run.experiment_id) if run else None,
    )
    study = open_study(storage, task.study_name, settings, study_name)
    with storage_errors(storage):
        workers = min(settings.tune.workers, len(unfinished(study, settings.tune.trials)))
        if workers > 1:
            _Team(task, workers).work()
        elif workers == 1:
            work(task)
        if run is not None:
            complete_runs(study, run, space_of(study))
        result = collect(study, settings.tune.trials)
    if run is not None:
        run.set_tags({"supcam.study": task.study_name})
        run.log_params({"best": result.best.values})
        run.log({"best_value": result.value, "trials": len(result.trials)})
    return result


class _Team:
    """Worker processes; one that is killed is replaced, one that reports an error ends the study."""

    def __init__(self, task: WorkerTask, workers: int) -> None:
        # Spawned, not forked: torch and the database driver do not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._task, self._workers = task, workers
        self._running: dict[SpawnProcess, Connection] = {}
        self._restarts = 0

    def work(self) -> None:
        """Return when every worker ended well."""
        try:
            for _ in range(self._workers):
                self._start()
            while self._running:
                wait([process.sentinel for process in self._running], timeout=1.0)
                for process in [item for item in self._running if not item.is_alive()]:
                    self._ended(process)
        finally:
            self._stop()

    def _start(self) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work_and_report, args=(self._task, sender), name="tune-worker")
        process.start()
        sender.close()
        self._running[process] = receiver

    def _ended(self, process: SpawnProcess) -> None:
        receiver = self._running.pop(process)
        process.join()
        message = _received(receiver)
        if message is not None:
            kind, text = message
            raise (UsageError if kind == "usage" else SupcamError)(text)
        if process.exitcode == 0:
            return
        self._restarts += 1
        if self._restarts > _RESTARTS_PER_WORKER * self._workers:
            raise SupcamError(
                f"workers of the study died {self._restarts} times, the last with {_reason(process.exitcode)}. "
                "Finished trials are kept. Lower tune.workers (memory is the usual cause) and run again to resume."
            )
        self._start()

    def _stop(self) -> None:
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + _GOODBYE
        for process, receiver in self._running.items():
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            receiver.close()


def _received(receiver: Connection) -> Any:
    try:
        return receiver.recv() if receiver.poll() else None
    except EOFError:
        return None
    finally:
        receiver.close()


def _reason(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _work_and_report(task: WorkerTask, sender: Connection) -> None:
    """Body of a worker process: an error of ours goes to the parent in words, not as a traceback."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    try:
        work(task)
    except SupcamError as error:
        sender.send(("usage" if isinstance(error, UsageError) else "failed", str(error)))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, then give the trial back and end as well."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GOODBYE)
    os._exit(128 + signal.SIGTERM)  # the main thread is in a long computation, or waits for a storage that is gone
