"""One tracked run per study and one per trial, each with its true status."""

from pathlib import Path
from typing import Any

import pytest

from supcam.errors import UsageError
from supcam.settings import PretrainSettings, Settings, TuneSettings
from supcam.tracking import Run, open_client, stage_run
from supcam.tuning.objective import Objective
from supcam.tuning.study import tune
from tests.tuning.objectives import Bowl, Faulty, KillsItself, SometimesFaulty, wrong_use
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


def test_a_trial_that_was_given_back_does_not_look_failed_by_itself(project: Path) -> None:
    with pytest.raises(UsageError, match=r"pretrain.batch_size"):
        tracked_study(project, wrong_use, trials=2)
    client = open_client(project)
    study, trial = sorted(client.search_runs(["1"]), key=lambda run: len(run.data.params), reverse=True)
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert trial.data.tags["supcam.trial.state"] == "lost"
    assert "UsageError: pretrain.batch_size" in trial.data.tags["supcam.error"]
    assert trial.info.status == study.info.status == "FAILED"


def test_trials_that_ran_without_the_store_are_added_by_the_next_run_of_the_stage(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker, also one in place of a killed one, asked the server about the run above, and stopped the study.

    Their runs were added again by every later run of the stage.
    """
    store = f"sqlite:///{project}/state/study.db"
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        settings = Settings(tune=TuneSettings(trials=8, startup_trials=3), pretrain=PretrainSettings(temperature=0.1))
        run = Run.attach(project, "f" * 32, "1")
        objective = SometimesFaulty()
        tune(NONE, NONE, settings, storage=store, study_name="study", state_dir=project, run=run, objective=objective)
    _, trials = tracked_study(project, SometimesFaulty(), trials=8, startup_trials=3)
    assert [int(trial.data.tags["supcam.trial"]) for trial in trials] == list(range(8))
    states = {(trial.data.tags["supcam.trial.state"], trial.info.status) for trial in trials}
    assert states == {("finished", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED")}
    assert trials[0].data.params == {"margin": "0.0", "temperature": "0.1", "baseline": "True"}
    assert trials[0].data.metrics["value"] == pytest.approx(0.74)
    assert len(open_client(project).get_metric_history(trials[0].info.run_id, "intermediate")) == 4
    _, again = tracked_study(project, SometimesFaulty(), trials=8, startup_trials=3)
    assert again == []
    found = open_client(project).search_runs(["1"], "tags.`supcam.trial` LIKE '%'")
    assert sorted(int(trial.data.tags["supcam.trial"]) for trial in found) == list(range(8))
