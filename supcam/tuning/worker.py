"""One worker: takes slots of a study until every slot is decided, each trial a tracked run with its true status."""

import contextlib
import math
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supcam.errors import SupcamError, UsageError
from supcam.settings import Settings
from supcam.tracking import Run, UntrackedRun
from supcam.tuning import storage
from supcam.tuning.objective import Objective, Point
from supcam.tuning.slots import claim, point_of, unfinished
from supcam.tuning.storage import StorageLost, open_study, storage_errors

_POLL = 1.0  # seconds between two looks at the trials of other workers


@dataclass(frozen=True)
class WorkerTask:
    """All a worker needs; picklable.

    Attributes:
        storage: Address of the study.
        study_name: Name of the study.
        settings: All settings.
        objective: What a trial measures.
        state_dir: Folder for the checkpoints of trials.
        key: Hash of all that determines a trial.
        above: Project root, id and experiment of the run above those of the trials; None tracks nothing.
    """

    storage: str
    study_name: str
    settings: Settings
    objective: Objective
    state_dir: Path
    key: str
    above: tuple[Path, str, str] | None = None


def work(task: WorkerTask) -> None:
    """Take and run trials until all are decided, waiting for those that other workers still run.

    Raises:
        UsageError: for a mistake of the user that would fail every trial; the trial is given back.
        StorageLost: when the storage fails on the way; the next run repeats what it did not record.
    """
    study = open_study(task.storage, task.study_name, task.settings, task.key)
    above = Run.attach(*task.above) if task.above else UntrackedRun(Path())
    with closing(above), storage_errors(task.storage):
        while unfinished(study, task.settings.tune.trials):
            trial = claim(study, task.storage, task.settings)
            if trial is None:
                threading.Event().wait(_POLL)
            else:
                run_trial(study, trial, task, above)


class TrialWatch:
    """Passes reports to the study and curves to the tracked run.

    Attributes:
        state_dir: Folder for checkpoints, of the slot: a repeated trial goes on from those of the attempt before.
    """

    def __init__(self, trial: Any, task: WorkerTask, run: Run) -> None:
        self._trial, self._task, self._run, self._step = trial, task, run, 0
        self.state_dir = task.state_dir / f"trial_{trial.user_attrs['slot']}"

    def report(self, value: float) -> None:
        """Pass on an intermediate value.

        Raises:
            TrialPruned: when the median of earlier trials is better.
            StorageLost: when the storage fails.
        """
        import optuna

        with storage_errors(self._task.storage):
            self._trial.report(value, self._step)
            # The baseline is what every other trial is compared with: it always runs to its end.
            poor = self._trial.user_attrs["slot"] > 0 and self._trial.should_prune()
        self._run.log({"intermediate": value}, self._step)
        self._step += 1
        if poor:
            raise optuna.TrialPruned(f"below the median of earlier trials at report {self._step}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Curves for the tracked run."""
        self._run.log(metrics, step)


def run_trial(study: Any, trial: Any, task: WorkerTask, above: Run) -> None:
    """Run one claimed trial and record how it ended, in the study first and then in its tracked run."""
    import optuna
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
    from optuna.trial import TrialState

    point = point_of(trial, task.settings)
    with _child(above, trial, point) as run, _heartbeat(trial):
        watch = TrialWatch(trial, task, run)
        try:
            value = float(task.objective(point, watch))
            if not math.isfinite(value):
                raise SupcamError(f"the value of the trial is {value}, not a finite number")
        except optuna.TrialPruned as pruned:
            study.tell(trial, state=TrialState.PRUNED)
            _end(run, "KILLED", "pruned", str(pruned))
        except UpdateFinishedTrialError:
            # This process slept longer than the grace period, and another worker repeats the trial.
            _end(run, "KILLED", "lost", "taken over by another worker")
            return
        except (UsageError, StorageLost, KeyboardInterrupt, SystemExit):
            # Given back: it is no fault of the trial, which the next worker repeats.
            with contextlib.suppress(StorageInternalError):
                study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            run.set_tags({"supcam.trial.state": "lost"})
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            trial.set_user_attr("error", text[:2000])
            study.tell(trial, state=TrialState.FAIL)
            _end(run, "FAILED", "failed", text)
        else:
            study.tell(trial, value, skip_if_finished=True)
            run.log({"value": value})
            _end(run, "FINISHED", "finished", None)
    shutil.rmtree(watch.state_dir, ignore_errors=True)


@contextmanager
def _child(above: Run, trial: Any, point: Point) -> Iterator[Run]:
    slot = trial.user_attrs["slot"]
    with above.child(f"trial {slot}", {"supcam.trial": slot, "supcam.trial.attempt": trial.number}) as run:
        if run.run_id:  # empty for a run that is not tracked: where the store was away, the study adds one at its end
            trial.set_user_attr("run_id", run.run_id)
        run.log_params({**point.values, "baseline": slot == 0})
        yield run


def _end(run: Run, status: str, state: str, error: str | None) -> None:
    run.set_tags({"supcam.trial.state": state})
    run.finish(status, error)


@contextmanager
def _heartbeat(trial: Any) -> Iterator[None]:
    """Say regularly that the trial is worked on. Optuna's own thread ends at the first answer that fails to come."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(storage.HEARTBEAT):
            with contextlib.suppress(Exception):  # a storage away for a moment; the next beat counts
                trial.storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
