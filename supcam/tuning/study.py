"""A whole study: workers started, watched and replaced, until exactly the wanted number of trials is decided."""

import multiprocessing
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from supcam.data.crops import CropSet
from supcam.errors import SupcamError, UsageError
from supcam.identity import identity, key_of
from supcam.settings import Settings
from supcam.tracking import Run
from supcam.tuning.objective import Objective, TrainingObjective
from supcam.tuning.result import TuneResult, collect
from supcam.tuning.slots import answering, open_study, unfinished
from supcam.tuning.worker import Job, work

_RESTARTS_PER_WORKER = 3


def study_key(deps: Mapping[str, str | None], settings: Settings) -> str:
    """Name of a study: a hash of all that determines its trials, so that old data or code never decides.

    Args:
        deps: Content hash by dependency of the stage (split, composed set, code), as ``stage_inputs`` gives it.
        settings: All settings; ``supcam.identity`` says which of them count.
    """
    return f"tune-{settings.profile}-{key_of(identity(settings, 'tune', deps))[:16]}"


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
    job = Job(
        storage,
        settings.tune.study or study_name,
        settings,
        objective or TrainingObjective(train, validation, settings),
        state_dir,
        study_name,
        run.root if run else None,
        (run.run_id, run.experiment_id) if run else None,
    )
    study = open_study(job.storage, job.study_name, settings, study_name)
    with answering(job.storage):
        workers = min(settings.tune.workers, len(unfinished(study, settings.tune.trials)))
        if workers > 1:
            _Team(job, workers).work()
        elif workers == 1:
            work(job)
        result = collect(study, settings.tune.trials)
    if run is not None:
        run.set_tags({"supcam.study": job.study_name})
        run.log_params({"best": result.best.values})
        run.log({"best_value": result.value, "trials": len(result.trials)})
    return result


class _Team:
    """Worker processes; one that is killed is replaced, one that reports an error ends the study."""

    def __init__(self, job: Job, workers: int) -> None:
        # Spawned, not forked: torch and the database driver do not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._job = replace(job, parent_process=multiprocessing.current_process().pid)
        self._workers = workers
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
        process = self._context.Process(target=_work_and_tell, args=(self._job, sender), name="tune-worker")
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
        deadline = time.monotonic() + 10
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


def _work_and_tell(job: Job, sender: Connection) -> None:
    """Body of a worker process: an error of ours goes to the parent in words, not as a traceback."""
    try:
        work(job)
    except SupcamError as error:
        sender.send(("usage" if isinstance(error, UsageError) else "failed", str(error)))
        raise SystemExit(error.exit_code) from None
