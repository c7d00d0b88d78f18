"""One tracked run per study and one per trial, each with its true status."""

from pathlib import Path
from typing import Any

import pytest

from supcam.settings import PretrainSettings, Settings, TuneSettings
from supcam.tracking import open_client, stage_run
from supcam.tuning import Objective, tune
from tests.tuning.objectives import Bowl, Faulty, KillsItself
from tests.tuning.test_study import NONE


def tracked_study(project: Path, objective: Objective, **values: Any) -> tuple[str, list[Any]]:
    settings = Settings(tune=TuneSettings(**values), pretrain=PretrainSettings(temperature=0.1))
    with stage_run("tune", project, settings) as run:
        tune(
            NONE,
            NONE,
            settings,
            storage=f"sqlite:///{project}/state/study.db",
            study_name="study",
            state_dir=project / "state" / "trials",
            run=run,
            objective=objective,
        )
    client = open_client(project)
    found = client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert client.get_run(run.run_id).info.status == "FINISHED"
    return run.run_id, sorted(found, key=lambda item: int(item.data.tags["supcam.trial.attempt"]))


def test_trials_are_children_with_parameters_curves_and_value(project: Path) -> None:
    parent, trials = tracked_study(project, Bowl(), trials=10, startup_trials=3)
    assert [int(trial.data.tags["supcam.trial"]) for trial in trials] == list(range(10))
    states = {trial.data.tags["supcam.trial.state"]: trial.info.status for trial in trials}
    assert states == {"finished": "FINISHED", "pruned": "KILLED"}
    first = trials[0]
    assert first.data.params == {"margin": "0.0", "temperature": "0.1", "baseline": "True"}
    assert first.data.metrics["value"] == pytest.approx(0.74)
    client = open_client(project)
    assert len(client.get_metric_history(first.info.run_id, "loss")) == 4
    tags = client.get_run(parent).data
    assert tags.tags["supcam.study"] == "study"
    assert float(tags.metrics["best_value"]) == max(t.data.metrics.get("value", 0) for t in trials)


def test_a_failed_trial_is_failed_with_its_error(project: Path) -> None:
    _, trials = tracked_study(project, Faulty(), trials=3)
    assert [trial.info.status for trial in trials] == ["FINISHED", "FAILED", "FAILED"]
    assert trials[1].data.tags["supcam.error"] == "RuntimeError: out of memory\nat some line"


def test_the_run_of_a_killed_worker_does_not_stay_open(project: Path) -> None:
    _, trials = tracked_study(project, KillsItself(0.0, project, times=1), trials=3, workers=2)
    states = [(trial.data.tags["supcam.trial.state"], trial.info.status) for trial in trials]
    assert sorted(states) == [("finished", "FINISHED")] * 3 + [("lost", "KILLED")]
