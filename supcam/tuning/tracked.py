"""The tracked runs of a study made to agree with it: the study is the record, its runs may have missed something."""

from typing import Any

from supcam.tracking import Run
from supcam.tuning.slots import is_decided

# State of a trial in tags and tables, and the status of its run, by Optuna's state.
STATES = {"COMPLETE": ("finished", "FINISHED"), "PRUNED": ("pruned", "KILLED"), "FAIL": ("failed", "FAILED")}


def complete_runs(study: Any, run: Run, coordinates: list[str]) -> None:
    """End the runs of trials that a kill left open, and add those of trials that ran while the store was away.

    Added runs name the study, so that the next call, also after a kill, knows them. One process at a time may call it.

    Args:
        study: The Optuna study.
        run: The run of the study; added runs lie below it, with values and reports but without curves.
        coordinates: Names of what the study searches.
    """
    left_open = _find(run, "attributes.status = 'RUNNING'")
    added = _find(run, f"tags.`supcam.study` = '{study.study_name}'")
    if left_open is None or added is None:
        return
    known = {int(item.data.tags["supcam.trial.attempt"]): item.info.run_id for item in added.values()}
    for trial in study.get_trials(deepcopy=False):
        run_id = trial.user_attrs.get("run_id") or known.get(trial.number)
        if run_id in left_open and trial.state.is_finished():
            _record(trial, run.sibling(run_id), coordinates)
        elif run_id is None and is_decided(trial):
            slot = trial.user_attrs["slot"]
            tags = {"supcam.trial": slot, "supcam.trial.attempt": trial.number, "supcam.study": study.study_name}
            with run.child(f"trial {slot}", tags) as fresh:
                _record(trial, fresh, coordinates)


def _find(run: Run, condition: str) -> dict[str, Any] | None:
    """Runs of trials that fulfil a condition, by id; None while the store is away."""
    from mlflow.utils import get_results_from_paginated_fn as all_pages

    where = [run.experiment_id], f"{condition} and tags.`supcam.trial` LIKE '%'"

    def ask(client: Any) -> list[Any]:
        found: list[Any] = all_pages(  # type: ignore[no-untyped-call]
            lambda size, page: client.search_runs(*where, max_results=size, page_token=page), 1000
        )
        return found

    found = run.ask(ask)
    return None if found is None else {item.info.run_id: item for item in found}


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
