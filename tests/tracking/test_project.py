"""The store is the one that MLflow itself would pick, wherever the command was started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supcam.errors import UsageError
from supcam.settings import Settings
from supcam.tracking import artifact_location, in_dvc_experiment, project_root, quiet, stage_run, tracking_uri


def test_bare_mlflow_in_the_root_picks_the_same_file(project: Path) -> None:
    code = "import mlflow; print(mlflow.get_tracking_uri())"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tracking_uri(project)


def test_a_model_is_found_without_any_variable_and_no_stray_folder_appears(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with stage_run("tune", project, Settings()) as run:
        run.log_text("weights", "model/weights.txt")
        client, run_id = run.client, run.run_id
    client.create_registered_model("supcam")
    version = client.create_model_version("supcam", f"runs:/{run_id}/model", run_id)
    client.set_registered_model_alias("supcam", "production", version.version)
    code = "import mlflow; print(mlflow.artifacts.download_artifacts('models:/supcam@production/weights.txt'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_text() == "weights"
    assert list(elsewhere.iterdir()) == []
    assert not (project / "mlruns").exists()


def test_root_is_the_nearest_parent_of_the_working_directory(project: Path, tmp_path: Path) -> None:
    assert project_root(project / "data" / "crops") == project == project_root()
    with pytest.raises(UsageError, match=r"neither it nor a parent holds dvc.yaml"):
        project_root(tmp_path)


def test_a_queued_experiment_uses_the_store_of_its_project(project: Path) -> None:
    trial = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmpx"
    trial.mkdir(parents=True)
    assert tracking_uri(trial) == tracking_uri(project)
    assert in_dvc_experiment(trial)
    assert not in_dvc_experiment(project)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///var/mlruns", "runs"])
def test_a_folder_as_store_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UsageError, match=r"MLFLOW_TRACKING_URI = .* is a folder"):
        tracking_uri(project)


def test_artifacts_lie_beside_the_database_and_a_server_decides_for_itself(project: Path) -> None:
    assert artifact_location(project, tracking_uri(project)) == (project / "mlartifacts").as_uri()
    assert artifact_location(project, "sqlite:////srv/x/mlflow.db") == "file:///srv/x/mlartifacts"
    assert artifact_location(project, "postgresql://host/db") == (project / "mlartifacts").as_uri()
    assert artifact_location(project, "http://127.0.0.1:5000") is None


def test_quiet_keeps_a_choice_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "0")
    monkeypatch.delenv("GX_ANALYTICS_ENABLED", raising=False)
    quiet()
    assert os.environ["DVC_NO_ANALYTICS"] == "0"
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
