"""A run is rebuilt from what it recorded, or refused with the reason."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from supcam.errors import GateRefused, UsageError
from supcam.settings import Settings, save_settings
from supcam.tracking import open_client, path_hash, stage_run
from supcam.tracking.reproduce import reproduction
from tests.tracking.conftest import git

CODE = """
import json, pathlib
count = len(pathlib.Path("data/manifest.csv").read_text().split())
text = pathlib.Path("params.yaml").read_text()
seed = text.split("seed:")[1].split()[0]
out = pathlib.Path("outputs/tune")
out.mkdir(parents=True, exist_ok=True)
(out / "figures.json").write_text(json.dumps({"count": count, "seed": int(seed), "factor": FACTOR}))
"""


def dvc(root: Path, *args: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *args, "-q"], cwd=root, check=True, capture_output=True, timeout=120)


@pytest.fixture
def pipeline(project: Path) -> Path:
    """The project with DVC, a data set and one stage."""
    (project / "code" / "part.py").write_text(f"FACTOR = 1\n{CODE}")
    save_settings(Settings(), project / "params.yaml")
    (project / "dvc.yaml").write_text(
        f"stages:\n  tune:\n    cmd: '{sys.executable} code/part.py'\n    deps: [data, code]\n    params: [runtime]\n"
        "    outs: [outputs/tune/figures.json]\n"
    )
    (project / ".gitignore").write_text("mlflow.db*\nmlartifacts/\nstate/\n/outputs\n")
    dvc(project, "init")
    dvc(project, "add", "data")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "pipeline")
    return project


def tracked(root: Path, settings: Settings | None = None) -> str:
    dvc(root, "repro")
    with stage_run("tune", root, settings or Settings()) as run:
        run.log_artifact(root / "outputs" / "tune" / "figures.json", "outputs/tune")
    return run.run_id


def test_a_run_with_changed_code_is_rebuilt_to_the_same_bytes(pipeline: Path, tmp_path: Path) -> None:
    """It was taken from the shared cache of DVC, and so always equal."""
    mark = tmp_path / "mark"
    (pipeline / "code" / "part.py").write_text(f"FACTOR = 7\n{CODE}open({str(mark)!r}, 'a').write('ran ')\n")
    run_id = tracked(pipeline)
    (pipeline / "code" / "part.py").write_text(f"FACTOR = 8\n{CODE}")
    plan = reproduction(pipeline, run_id, tmp_path / "rebuilt")
    assert plan.text.splitlines()[0].startswith("git worktree add --detach") and "apply" in plan.text
    found = plan.execute(pipeline)
    assert [(item.name, item.equal) for item in found] == [("figures.json", True)]
    assert mark.read_text() == "ran ran "
    assert '"factor": 7' in (tmp_path / "rebuilt" / "outputs" / "tune" / "figures.json").read_text()
    assert plan.warnings == []


def test_a_run_with_other_settings_gets_them_and_a_difference_is_reported(pipeline: Path, tmp_path: Path) -> None:
    other = Settings().model_copy(update={"runtime": Settings().runtime.model_copy(update={"seed": 5})})
    run_id = tracked(pipeline, other)  # its artifact was made with seed 42, its record says 5
    found = reproduction(pipeline, run_id, tmp_path / "rebuilt").execute(pipeline)
    assert [(item.equal, item.detail) for item in found] == [(False, "seed differs most: 42, rebuilt 5")]


def test_a_run_of_mlflow_run_leads_to_the_stage_below_it(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings and outputs lie in the run of the stage, and it was refused for their lack."""
    client = open_client(pipeline)
    made = {"mlflow.project.entryPoint": "tune", "supcam.stage": "tune"}
    outer = client.create_run("0", tags=made).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    run_id = tracked(pipeline)
    plan = reproduction(pipeline, outer, tmp_path / "rebuilt")
    assert plan.run_id == run_id and plan.artifacts is not None


def test_settings_that_this_version_no_longer_knows_are_rebuilt_as_they_were(pipeline: Path, tmp_path: Path) -> None:
    run_id, client = tracked(pipeline), open_client(pipeline)
    settings = json.loads(Path(client.download_artifacts(run_id, "settings.json")).read_text())
    settings["pretrain"]["old"] = 1
    settings["tune"] |= {"storage": "postgresql+psycopg://lab/optuna", "workers": 4}
    client.log_text(run_id, json.dumps(settings), "settings.json")
    plan = reproduction(pipeline, run_id, tmp_path / "rebuilt")
    kept = yaml.safe_load((pipeline / "state/reproduce" / run_id / "params.yaml").read_text())
    assert kept["pretrain"]["old"] == 1 and kept["tune"]["storage"] is None
    assert any(command[0] == "cp" and command[-1].endswith("params.yaml") for command in plan.commands)
    assert any("the study had 4 workers" in warning for warning in plan.warnings)


def test_data_of_an_earlier_version_comes_from_the_cache(pipeline: Path, tmp_path: Path) -> None:
    run_id = tracked(pipeline)
    (pipeline / "data" / "manifest.csv").write_text("crop_id\na\nb\n")
    dvc(pipeline, "add", "data")
    git(pipeline, "commit", "-q", "-a", "-m", "more data")
    found = reproduction(pipeline, run_id, tmp_path / "rebuilt").execute(pipeline)
    assert found[0].equal
    assert path_hash(tmp_path / "rebuilt" / "data" / "manifest.csv") != path_hash(pipeline / "data" / "manifest.csv")


def test_what_cannot_be_rebuilt_is_refused_with_the_reason(pipeline: Path, tmp_path: Path) -> None:
    run_id, client, new = tracked(pipeline), open_client(pipeline), tmp_path / "rebuilt"
    with pytest.raises(UsageError, match=r"run 'nobody' is not in the tracking store"):
        reproduction(pipeline, "nobody", new)
    with pytest.raises(UsageError, match=r"folder .* exists"):
        reproduction(pipeline, run_id, tmp_path)
    commit = client.get_run(run_id).data.tags["supcam.git.commit"]
    for tag, value, text in (
        ("supcam.git.dirty", "true", r"changes that were not committed and are not kept"),
        ("supcam.git.commit", "0" * 40, r"its commit 0+ is not in this repository"),
        ("supcam.dep/data", "1" * 32 + ".dir", r"its data \(hash 1+.dir\) is neither that of data.dvc"),
        ("supcam.from_run", "abc", r"it took its inputs from run abc"),
        ("supcam.stage", "", r"it is not the run of a stage"),
        ("supcam.stage", "ablation", r"ablation is not a stage of dvc.yaml at .* mlflow run . .*-e ablation"),
    ):
        before = client.get_run(run_id).data.tags.get(tag, "")
        client.set_tag(run_id, tag, value)
        with pytest.raises(GateRefused, match=text):
            reproduction(pipeline, run_id, new)
        client.set_tag(run_id, tag, before)
    assert not new.exists() and client.get_run(run_id).data.tags["supcam.git.commit"] == commit


def test_other_versions_are_warned_about(pipeline: Path, tmp_path: Path) -> None:
    run_id, client = tracked(pipeline), open_client(pipeline)
    client.set_tag(run_id, "supcam.versions", '{"python": "3.9.1", "numpy": "1.0"}')
    client.set_tag(run_id, "supcam.device", "cuda:0 Other")
    warnings = reproduction(pipeline, run_id, tmp_path / "rebuilt").warnings
    assert len(warnings) == 3 and "python was 3.9.1" in warnings[0] and "cuda:0 Other" in warnings[2]
    shutil.rmtree(pipeline / "mlartifacts")
    with pytest.raises(GateRefused, match=r"its artifact settings.json is gone"):
        reproduction(pipeline, run_id, tmp_path / "rebuilt")
