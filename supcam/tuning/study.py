"""A whole study, until exactly the wanted number of trials is decided."""

from collections.abc import Mapping
from pathlib import Path

from supcam.data.crops import CropSet
from supcam.identity import identity, key_of
from supcam.settings import Settings
from supcam.tracking import Run
from supcam.tuning.objective import Objective, TrainingObjective
from supcam.tuning.result import TuneResult, collect, space_of
from supcam.tuning.slots import decided
from supcam.tuning.storage import exclusive, open_study, storage_errors
from supcam.tuning.team import work_together
from supcam.tuning.tracked import complete_runs
from supcam.tuning.worker import WorkerTask, work


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
    task = WorkerTask(
        storage,
        settings.tune.study or study_name,
        settings,
        objective or TrainingObjective(train, validation, settings),
        state_dir,
        study_name,
        (run.root, run.run_id, run.experiment_id) if run else None,
    )
    study = open_study(storage, task.study_name, settings, study_name)
    with storage_errors(storage):
        workers = min(settings.tune.workers, settings.tune.trials - len(decided(study, settings.tune.trials)))
        if workers > 1:
            work_together(task, workers)
        elif workers == 1:
            work(task)
        if run is not None:
            with exclusive(storage, study.study_name):  # of two machines each would add the same run
                complete_runs(study, run, space_of(study))
        result = collect(study, settings.tune.trials)
    if run is not None:
        run.set_tags({"supcam.study": task.study_name})
        run.log_params({"best": result.best.values})
        run.log({"best_value": result.value, "trials": len(result.trials)})
    return result
