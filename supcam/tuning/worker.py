"""One worker: runs trials of a study until every slot is decided, each trial a tracked run with its true status."""

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from supcam.errors import SupcamError, UsageError
from supcam.settings import Settings
from supcam.tracking import Run, UntrackedRun
from supcam.tuning import storage
from supcam.tuning.objective import Objective, Point
from supcam.tuning.slots import claim, decided
from supcam.tuning.storage import StorageLost, open_study, storage_errors
from supcam.tuning.tracked import end_run

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
    """Run trials until all are decided, waiting for those that other workers still run.

    Raises:
        UsageError: for a mistake of the user that would fail every trial; the trial is given back.
        StorageLost: when the storage fails on the way; the next run repeats what it did not record.
    """
    study = open_study(task.storage, task.study_name, task.settings, task.key)
    above = Run.attach(*task.above) if task.above else UntrackedRun(Path())
    with closing(above), storage_errors(task.storage):
        while len(decided(study, task.settings.tune.trials)) < task.settings.tune.trials:
            claimed = claim(study, task.storage, task.settings)
            if claimed is None:
                time.sleep(_POLL)
            else:
                _run_trial(study, *claimed, task, above)


def _run_trial(study: Any, trial: Any, point: Point, task: WorkerTask, above: Run) -> None:
    """Run one claimed trial and record how it ended, in the study first and then in its tracked run."""
    from optuna.trial import TrialState

    slot = trial.user_attrs["slot"]
    state_dir = task.state_dir / f"trial_{slot}"
    tags = {"supcam.trial": slot, "supcam.trial.attempt": trial.number}
    if task.settings.runtime.progress:
        point_text = ", ".join(f"{name} {value:.4g}" for name, value in point.values.items())
        Console(stderr=True).print(f"trial {slot + 1} of {task.settings.tune.trials}: {point_text}", highlight=False)
    try:
        with _heartbeat(trial), above.child(f"trial {slot}", tags) as run:
            if run.run_id:  # empty where the store was away: the study adds a run at its end
                trial.set_user_attr("run_id", run.run_id)
            run.log_params({**point.values, "baseline": slot == 0})
            watch = TrialWatch(state_dir, trial, task.storage, run)
            decided = _measure(study, trial, lambda: task.objective(point, watch), run)
    except BaseException:
        # Not the trial's fault, so the next worker repeats it.
        with contextlib.suppress(Exception):  # a storage that is away, or was interrupted in a statement
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise
    if decided:  # else the worker that took the trial over needs its checkpoints
        shutil.rmtree(state_dir, ignore_errors=True)


def _measure(study: Any, trial: Any, objective: Callable[[], float], run: Run) -> bool:
    """Measure a trial and record the outcome; False where another worker has taken it over meanwhile."""
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        value = float(objective())
        if not math.isfinite(value):
            raise SupcamError(f"the value of the trial is {value}, not a finite number")
    except optuna.TrialPruned as pruned:
        study.tell(trial, state=TrialState.PRUNED)
        end_run(run, "PRUNED", str(pruned))
    except UpdateFinishedTrialError:
        # This process slept longer than the grace period, and another worker repeats the trial.
        end_run(run, "LOST", "taken over by another worker")
        return False
    except (UsageError, StorageLost, KeyboardInterrupt, SystemExit):
        run.set_tags({"supcam.trial.state": "lost"})
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        trial.set_user_attr("error", text[:2000])
        study.tell(trial, state=TrialState.FAIL)
        end_run(run, "FAIL", text)
    else:
        told = study.tell(trial, value, skip_if_finished=True)
        if told.value != value:  # failed by another worker, which repeats it
            end_run(run, "LOST", "taken over by another worker")
            return False
        run.log({"value": value})
        end_run(run, "COMPLETE")
    return True


class TrialWatch:
    """Passes reports to the study and curves to the tracked run.

    Attributes:
        state_dir: Folder for checkpoints, of the slot: a repeated trial goes on from those of the attempt before.
    """

    def __init__(self, state_dir: Path, trial: Any, storage: str, run: Run) -> None:
        self.state_dir, self._trial, self._storage, self._run, self._step = state_dir, trial, storage, run, 0

    def report(self, value: float) -> None:
        """Pass on an intermediate value.

        Raises:
            TrialPruned: when the median of earlier trials is better.
            StorageLost: when the storage fails.
        """
        import optuna

        with storage_errors(self._storage):
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


@contextmanager
def _heartbeat(trial: Any) -> Iterator[None]:
    """Record regularly that the trial is worked on; Optuna's thread ends at the first answer that fails to come."""
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
