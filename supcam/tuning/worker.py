"""One worker: takes slots of a study until every slot is decided, each trial a tracked run with its true status."""

import contextlib
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supcam.errors import SupcamError, UsageError
from supcam.settings import Settings
from supcam.tracking import Run
from supcam.tuning.objective import Objective
from supcam.tuning.slots import HEARTBEAT, StorageLost, answering, claim, open_study, point_of, unfinished

_POLL = 1.0  # seconds between two looks at the trials of other workers


@dataclass(frozen=True)
class Job:
    """All a worker needs; picklable.

    Attributes:
        storage: Address of the study.
        study_name: Name of the study.
        settings: All settings.
        objective: What a trial measures.
        state_dir: Folder for the checkpoints of trials.
        key: Hash of all that determines a trial.
        root: Project root of the tracked runs; None tracks nothing.
        parent: Ids of the run above the trials and of its experiment.
        parent_process: Process without which a worker stops; None for a worker of its own.
    """

    storage: str
    study_name: str
    settings: Settings
    objective: Objective
    state_dir: Path
    key: str
    root: Path | None = None
    parent: tuple[str, str] | None = None
    parent_process: int | None = None


class Orphaned(SupcamError):
    """The process that started this worker is gone; its trial goes back to the study."""


def work(job: Job) -> None:
    """Take and run trials until all are decided, waiting for those that other workers still run.

    Raises:
        UsageError: for a mistake of the user that would fail every trial; the trial is given back.
        StorageLost: when the storage fails on the way; the next run repeats what it was not told.
    """
    study = open_study(job.storage, job.study_name, job.settings, job.key)
    parent = Run.attach(job.root, *job.parent) if job.root is not None and job.parent is not None else None
    idle = threading.Event()
    with answering(job.storage):
        while unfinished(study, job.settings.tune.trials):
            _stop_if_orphaned(job)
            trial = claim(study, job.storage, job.settings, _end_lost_run(job))
            if trial is None:
                idle.wait(_POLL)
                continue
            run_trial(study, trial, job, parent)


class TrialWatch:
    """Passes reports to the study and curves to the tracked run."""

    def __init__(self, trial: Any, job: Job, run: Run | None) -> None:
        self._trial, self._job, self._run, self._step = trial, job, run, 0
        self.state_dir = job.state_dir / f"trial_{trial.user_attrs['slot']}"

    def report(self, value: float) -> None:
        """Pass on an intermediate figure; raises ``TrialPruned`` when the median of earlier trials is better."""
        import optuna

        _stop_if_orphaned(self._job)
        with answering(self._job.storage):
            self._trial.report(value, self._step)
            # The baseline is what every other trial is compared with: it always runs to its end.
            poor = self._trial.user_attrs["slot"] > 0 and self._trial.should_prune()
        if self._run is not None:
            self._run.log({"intermediate": value}, self._step)
        self._step += 1
        if poor:
            raise optuna.TrialPruned(f"below the median of earlier trials at report {self._step}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Curves for the tracked run."""
        if self._run is not None:
            self._run.log(metrics, step)


def run_trial(study: Any, trial: Any, job: Job, parent: Run | None) -> None:
    """Run one claimed trial and record how it ended, in the study first and then in its tracked run."""
    import optuna
    from optuna.exceptions import StorageInternalError
    from optuna.trial import TrialState

    point = point_of(trial, job.settings)
    with _child(parent, trial, point) as run, _heartbeat(trial):
        watch = TrialWatch(trial, job, run)
        try:
            value = float(job.objective(point, watch))
            if not math.isfinite(value):
                raise SupcamError(f"the figure of the trial is {value}, no finite number")
        except optuna.TrialPruned as pruned:
            study.tell(trial, state=TrialState.PRUNED)
            _end(run, "KILLED", "pruned", str(pruned))
        except (UsageError, Orphaned, StorageLost, KeyboardInterrupt, SystemExit):
            # Given back: it is no fault of the trial, which the next worker repeats.
            with contextlib.suppress(StorageInternalError):
                study.tell(trial, state=TrialState.FAIL)
            if run is not None:
                run.set_tags({"supcam.trial.state": "lost"})
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            trial.set_user_attr("error", text[:2000])
            study.tell(trial, state=TrialState.FAIL)
            _end(run, "FAILED", "failed", text)
        else:
            study.tell(trial, value)
            if run is not None:
                run.log({"value": value})
            _end(run, "FINISHED", "finished", None)
    shutil.rmtree(watch.state_dir, ignore_errors=True)


@contextmanager
def _child(parent: Run | None, trial: Any, point: Any) -> Iterator[Run | None]:
    if parent is None:
        yield None
        return
    slot = trial.user_attrs["slot"]
    with parent.child(f"trial {slot}", {"supcam.trial": slot, "supcam.trial.attempt": trial.number}) as run:
        trial.set_user_attr("run_id", run.run_id)
        run.log_params({**point.values, "baseline": slot == 0})
        yield run


def _end(run: Run | None, status: str, state: str, error: str | None) -> None:
    if run is not None:
        run.set_tags({"supcam.trial.state": state})
        run.finish(status, error)


def _end_lost_run(job: Job) -> Any:
    def end(frozen: Any) -> None:
        run_id = frozen.user_attrs.get("run_id")
        if job.root is None or job.parent is None or run_id is None or "error" in frozen.user_attrs:
            return
        with contextlib.suppress(Exception):
            run = Run.attach(job.root, run_id, job.parent[1])
            run.set_tags({"supcam.trial.state": "lost"})
            run.finish("KILLED")

    return end


@contextmanager
def _heartbeat(trial: Any) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT):
            with contextlib.suppress(Exception):  # a storage away for a moment; the next beat counts
                trial.storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _stop_if_orphaned(job: Job) -> None:
    if job.parent_process is not None and os.getppid() != job.parent_process:
        raise Orphaned(f"process {job.parent_process}, which started this worker, is gone. Run again to resume.")
