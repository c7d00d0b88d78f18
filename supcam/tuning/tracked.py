"""The tracked runs of a study made to agree with it: the study is the record, its runs may have missed something."""

from typing import Any

from supcam.tracking import Run
from supcam.tuning.slots import is_decided

# State of a trial in tags and tables, and the status of its run, by Optuna's state.
STATES = {"COMPLETE": ("finished", "FINISHED"), "PRUNED": ("pruned", "KILLED"), "FAIL": ("failed", "FAILED")}


def complete_runs(study: Any, run: Run, coordinates: list[str]) -> None:
    """End the runs of trials that a kill left open, and add those of trials that ran while the store was away.

    Args:
        study: The Optuna study.
        run: The run of the study; added runs lie below it, with values and reports but without curves.
        coordinates: Names of what the study searches.
    """
    query = "attributes.status = 'RUNNING' and tags.`supcam.trial` LIKE '%'"
    found = run.ask(lambda client: client.search_runs([run.experiment_id], query))
    if found is None:
        return
    left_open = {item.info.run_id for item in found}
    for trial in study.get_trials(deepcopy=False):
        run_id = trial.user_attrs.get("run_id")
        if run_id in left_open and trial.state.is_finished():
            _record(trial, run.sibling(run_id), coordinates)
        elif run_id is None and is_decided(trial):
            tags = {"supcam.trial": trial.user_attrs["slot"], "supcam.trial.attempt": trial.number}
            with run.child(f"trial {trial.user_attrs['slot']}", tags) as added:
                _record(trial, added, coordinates)


def end_run(run: Run, outcome: str, error: str | None = None) -> None:
    """End the run of a trial with its true status: one of ``STATES``, or ``LOST`` for a trial that is repeated."""
    state, status = STATES.get(outcome, ("lost", "KILLED"))
    run.set_tags({"supcam.trial.state": state})
    run.finish(status, error)


def _record(trial: Any, run: Run, coordinates: list[str]) -> None:
    run.log_params({name: trial.user_attrs[name] for name in coordinates if name in trial.user_attrs})
    run.log_params({"baseline": trial.user_attrs["slot"] == 0})
    for step, value in trial.intermediate_values.items():
        run.log({"intermediate": value}, step)
    if trial.state.name == "COMPLETE":
        run.log({"value": trial.value})
    end_run(run, trial.state.name if is_decided(trial) else "LOST", trial.user_attrs.get("error"))
