"""A tracked study where a team would have it: MLflow server with PostgreSQL and an artifact store, Optuna likewise."""

from pathlib import Path

import pytest

from supcam.settings import PretrainSettings, Settings, TuneSettings
from supcam.stages.stage import Stage, execute
from supcam.stages.workspace import Workspace
from supcam.tracking import open_client
from supcam.tuning.study import tune
from tests.support.servers import MlflowServer, database
from tests.tuning.objectives import SometimesFaulty
from tests.tuning.test_study import NONE

SETTINGS = Settings(tune=TuneSettings(trials=9, startup_trials=3), pretrain=PretrainSettings(temperature=0.1))


def test_a_study_on_a_server_with_postgresql_and_an_artifact_store(
    project: Path, postgres_server: str, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path / "server", database(postgres_server, "mlflow"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)

    def work(stage: Stage) -> str:
        objective = SometimesFaulty()
        result = tune(
            NONE, NONE, SETTINGS, storage=postgres, study_name="tracked", state_dir=stage.state, run=stage.run,
            objective=objective,
        )  # fmt: skip
        result.write(stage.out)
        return result.summary

    server.start()
    try:
        execute("tune", work, Workspace(project, SETTINGS, project / "outputs"))
        client = open_client(project)
        experiment = client.get_experiment_by_name("supcam")
        assert experiment.artifact_location.startswith("mlflow-artifacts:/")
        runs = client.search_runs([experiment.experiment_id])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        trials = sorted((run for run in runs if run is not parent), key=lambda run: int(run.data.tags["supcam.trial"]))
        assert parent.info.status == "FINISHED" and parent.data.tags["supcam.study"] == "tracked"
        assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
        assert [int(run.data.tags["supcam.trial"]) for run in trials] == list(range(9))
        ends = {(run.data.tags["supcam.trial.state"], run.info.status) for run in trials}
        assert ends == {("finished", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED")}
        assert float(parent.data.metrics["best_value"]) == max(run.data.metrics.get("value", 0.0) for run in trials)
        assert len(client.get_metric_history(trials[0].info.run_id, "loss")) == 4
        folder = Path(client.download_artifacts(parent.info.run_id, "outputs/tune", str(tmp_path)))
        figures = {"history.png", "importances.png", "slice.png", "contour.png"}
        assert figures | {"best_params.yaml", "trials.csv"} == {path.name for path in folder.iterdir()}
        assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in figures)
        assert not (project / "mlartifacts").exists() and any((server.folder / "artifacts").rglob("contour.png"))
    finally:
        server.kill()
