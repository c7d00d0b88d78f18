"""Runs: what they carry, how they end, under ``mlflow run`` and from several processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supcam.errors import GateRefused, SupcamError
from supcam.settings import Settings
from supcam.tracking import git_state, open_client, run_of, stage_inputs, stage_run, tag_run, tracking_uri
from supcam.tracking.plugin import ProjectExperiment
from tests.tracking.conftest import git


def test_a_run_carries_what_made_it(project: Path) -> None:
    (project / "code" / "part.py").write_text("print(2)\n")
    (project / "code" / "new.py").write_text("print(3)\n")
    with stage_run("tune", project, Settings(), tags={"extra": 1}) as run:
        for step in range(1500):
            run.log({"loss": 1.0 / (step + 1)}, step)
        run.log_params({"a": {"b": 2}})
        run.log_dataset("split", "ab" * 16 + ".dir", "data", "training", {"crops": 3})
    found = run.client.get_run(run.run_id)
    tags, deps = found.data.tags, stage_inputs(project, "tune")["deps"]
    assert {name: tags[f"supcam.dep/{name}"] for name in deps} == deps
    assert tags["supcam.param/params.yaml:evaluate.seed"] == "7"
    assert tags["supcam.git.commit"] == git(project, "rev-parse", "HEAD").strip()
    assert (tags["supcam.git.dirty"], tags["extra"], found.info.status) == ("true", "1", "FINISHED")
    assert found.data.params["a.b"] == "2"
    (read,) = found.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest, read.tags[0].value) == ("split", "ab" * 16 + ".dir", "training")
    assert found.data.params["tune.trials"] == str(Settings().tune.trials)
    assert len(run.client.get_metric_history(run.run_id, "loss")) == 1500
    patch = Path(run.client.download_artifacts(run.run_id, "changes.patch")).read_text()
    assert "+print(2)" in patch and "+print(3)" in patch


def test_the_patch_rebuilds_the_tree_and_the_index_stays(project: Path, tmp_path: Path) -> None:
    (project / "code" / "part.py").write_bytes(b"caf\xe9 = 1\r\n")
    (project / "code" / "new file.bin").write_bytes(bytes(range(256)))
    staged = git(project, "status", "--porcelain")
    state = git_state(project)
    assert git(project, "status", "--porcelain") == staged
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(project), str(copy))
    patch = tmp_path / "changes.patch"
    patch.write_bytes(state.diff.encode("utf-8", "surrogateescape"))
    git(copy, "apply", str(patch))
    for name in ("part.py", "new file.bin"):
        assert (copy / "code" / name).read_bytes() == (project / "code" / name).read_bytes()


def test_what_the_pipeline_writes_does_not_make_a_commit_dirty(project: Path) -> None:
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    (project / "result.csv").write_text("x")
    state = git_state(project)
    assert (state.dirty, state.diff) == (False, "")
    (project / "params.yaml").write_text("tune: {}\n")
    assert git_state(project).dirty


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path).commit is None


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (GateRefused("3 crops fail"), "FAILED", "GateRefused: 3 crops fail"),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(3), "FAILED", "exit 3"),
    ],
)
def test_the_status_is_true(project: Path, error: BaseException, status: str, text: str) -> None:
    with pytest.raises(type(error)), stage_run("tune", project, Settings()) as run:
        run.log({"loss": 1.0}, 0)
        raise error
    found = run.client.get_run(run.run_id)
    assert (found.info.status, found.data.tags["supcam.error"]) == (status, text)
    assert found.data.metrics == {"loss": 1.0}


def test_an_interrupted_training_is_killed_not_failed(project: Path) -> None:
    """Lightning answers Ctrl-C with SystemExit(1), which looked like a failure."""
    with pytest.raises(SystemExit), stage_run("tune", project, Settings()) as run:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    assert run.client.get_run(run.run_id).info.status == "KILLED"


def test_sigterm_ends_a_run_as_killed(project: Path) -> None:
    code = (
        "import time, pathlib\nfrom supcam.settings import Settings\nfrom supcam.tracking import stage_run\n"
        "with stage_run('tune', pathlib.Path.cwd(), Settings()) as run:\n"
        "    run.log({'loss': 1.0}, 0)\n    print(run.run_id, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=project, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    found = open_client(project).get_run(run_id)
    assert (found.info.status, found.data.metrics) == ("KILLED", {"loss": 1.0})


def test_the_run_of_mlflow_run_becomes_the_parent_and_stays_open(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(project)
    outer = client.create_run(client.create_experiment("of mlflow run", (project / "mlartifacts").as_uri()))
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    with stage_run("tune", project, Settings()) as run, run.child("trial 0") as trial:
        assert "MLFLOW_RUN_ID" not in os.environ
        trial.log({"value": 0.5})
    tags = client.get_run(run.run_id).data.tags
    assert tags["mlflow.parentRunId"] == outer.info.run_id
    assert client.get_run(trial.run_id).data.tags["mlflow.parentRunId"] == run.run_id
    assert client.get_run(run.run_id).info.experiment_id == outer.info.experiment_id
    assert client.get_run(outer.info.run_id).info.status == "RUNNING"


def test_processes_that_start_at_once_share_one_experiment(project: Path) -> None:
    (project / "mlflow.db").unlink()
    code = (
        "import pathlib\nfrom supcam.settings import Settings\nfrom supcam.tracking import stage_run\n"
        "with stage_run('tune', pathlib.Path.cwd(), Settings()) as run:\n    run.log({'loss': 1.0}, 0)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=project, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors
    client = open_client(project)
    names = [item.name for item in client.search_experiments()]
    assert sorted(names) == ["Default", "supcam"]
    found = client.search_runs([client.get_experiment_by_name("supcam").experiment_id])
    assert [item.info.status for item in found] == ["FINISHED"] * 3


def test_an_artifact_that_does_not_exist_is_an_error(project: Path) -> None:
    with (
        pytest.raises(SupcamError, match=r"artifact .*no.png does not exist"),
        stage_run("tune", project, Settings()) as run,
    ):
        run.log_artifact(project / "no.png")


def test_an_unreachable_server_is_named_at_the_start(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert tracking_uri(project) == "http://127.0.0.1:9"
    with (
        pytest.raises(SupcamError, match=r"tracking store http://127.0.0.1:9 cannot be reached"),
        stage_run("tune", project, Settings()),
    ):
        pass


def test_mlflow_itself_uses_the_experiment_of_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow run .` put its run into "Default", apart from those of the stages."""
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: tracking_uri(project))
    provider = ProjectExperiment()
    assert provider.in_context()
    found = open_client(project).get_experiment(provider.get_experiment_id())
    assert found.name == "supcam" and found.tags["mlflow.experimentKind"] == "custom_model_development"
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: "http://elsewhere")
    assert not provider.in_context()
    monkeypatch.chdir(project.parent)
    assert not provider.in_context()


@pytest.mark.parametrize(("given", "shown"), [("gaudy-ant-23", "pretrain pretrain.epochs=20"), ("my name", "my name")])
def test_a_made_up_name_becomes_what_the_run_does(project: Path, given: str, shown: str) -> None:
    client = open_client(project)
    run = client.create_run("0", run_name=given)
    tag_run(project, run.info.run_id, "pretrain", Settings(), {"pretrain.epochs": "20"})
    found = client.get_run(run.info.run_id)
    assert found.info.run_name == shown
    assert found.data.tags["supcam.stage"] == "pretrain"


def test_the_run_that_had_the_same_inputs_is_found(project: Path) -> None:
    inputs = stage_inputs(project, "tune")
    with stage_run("tune", project, Settings()) as run:
        pass
    client = open_client(project)
    assert run_of(client, run.experiment_id, "tune", inputs).info.run_id == run.run_id
    other = {"deps": inputs["deps"] | {"code": "another"}, "params": inputs["params"]}
    assert run_of(client, run.experiment_id, "tune", other) is None
    assert run_of(client, run.experiment_id, "pretrain", inputs) is None
