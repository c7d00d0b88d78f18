"""The main job in real processes: dvc repro, mlflow run, and the production model in a fresh interpreter."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from tests.support.imports import CANNOT_CHANGE_A_RESULT, ROOT
from tests.support.project import call, change_settings, commit, copy_checkout, environment, small_project, succeed

TUTORIAL = ROOT / "docs" / "tutorial.md"
LOAD = """
import mlflow, sys, pandas as pd
from pathlib import Path
model = mlflow.pyfunc.load_model("models:/supcam@production")
crops = sorted(Path("data/crops").rglob("*.png"))[:5]
print(model.predict(pd.DataFrame({"image": [crop.read_bytes() for crop in crops]})).to_json())
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the crops of the tutorial after its first `dvc repro`, committed."""
    made = small_project(
        tmp_path_factory.mktemp("main job") / "project", crops=160, cases=10, seed=11, source="lab-2026"
    )
    succeed(made, "dvc", "repro")
    commit(made, "first model")
    return made


def tracked_files(project: Path) -> dict[str, str]:
    """Hash of every file that DVC or the user owns."""
    names = ["dvc.lock", "data.dvc", "params.yaml"]
    files = [project / name for name in names] + sorted((project / "outputs").rglob("*"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def store_of(project: Path) -> Any:
    """The project's runs and registered models."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{project.as_posix().replace(' ', '%20')}/mlflow.db"
    return MlflowClient(uri, registry_uri=uri)


def aliases(project: Path) -> dict[str, str]:
    """Versions behind the aliases of the registered model."""
    return dict(store_of(project).get_registered_model("supcam").aliases)


def test_a_model_is_in_production(project: Path) -> None:
    decision = json.loads((project / "outputs/promote/decision.json").read_text(encoding="utf-8"))
    assert decision["outcome"] == "promoted"
    assert aliases(project)["production"] == aliases(project)["candidate"]


def test_second_repro_runs_only_promote_which_has_nothing_to_do(project: Path) -> None:
    before = tracked_files(project)
    said = succeed(project, "dvc", "repro")
    assert [line for line in said.splitlines() if line.startswith("Running stage")] == ["Running stage 'promote':"]
    assert "nothing to do" in said
    assert tracked_files(project) == before


def stale(project: Path) -> set[str]:
    """Stages of the project's own pipeline that would run again; that of the example was never run here."""
    said = succeed(project, "dvc", "status", "--json")
    return {name for name in json.loads(said) if not name.startswith("examples/")}


def test_status_lists_only_promote(project: Path) -> None:
    assert stale(project) == {"promote"}


def test_reworded_errors_and_other_progress_bars_retrain_nothing(project: Path, tmp_path: Path) -> None:
    changed = tmp_path / "project"
    shutil.copytree(project, changed, symlinks=True)
    for name in CANNOT_CHANGE_A_RESULT:
        for file in [changed / name] if name.endswith(".py") else sorted((changed / name).rglob("*.py")):
            file.write_text(file.read_text(encoding="utf-8") + "# reworded\n", encoding="utf-8")
    assert stale(changed) == {"promote"}
    losses = changed / "supcam/losses/margin.py"
    losses.write_text(losses.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert stale(changed) == {"tune", "pretrain", "finetune", "promote"}


def test_bare_mlflow_loads_the_production_model(project: Path) -> None:
    (project / "load.py").write_text(LOAD, encoding="utf-8")
    done = call(project, "python", "load.py", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    (project / "load.py").unlink()
    assert done.returncode == 0, done.stderr
    predicted = pd.read_json(StringIO(done.stdout))
    assert list(predicted["type"].isin(["instance", "touching", "overlapping", "touching-overlapping"])) == [True] * 5


def test_predict_writes_one_row_per_image(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crops (new)"
    shutil.copytree(project / "data/crops", folder)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("ignored", encoding="utf-8")
    images = [path for path in folder.rglob("*.*") if path.suffix == ".png"]
    done = call(project, "supcam", "predict", str(folder), "--output", str(tmp_path / "types.csv"))
    rows = pd.read_csv(tmp_path / "types.csv")
    assert done.returncode == 1
    assert sorted(rows["path"]) == sorted(str(path) for path in images)
    assert rows.loc[rows["path"].str.endswith("broken.png"), "error"].notna().all()
    assert rows["error"].notna().sum() == 1
    read = rows[rows["error"].isna()]
    assert read[[name for name in map(str, rows) if name.startswith("p_")]].sum(axis=1).between(0.999, 1.001).all()


def test_mlflow_run_leaves_what_dvc_tracks_untouched(project: Path) -> None:
    """Joint training from random weights: other weights, and a candidate of its own."""
    before, production = tracked_files(project), aliases(project)["production"]
    joint = ("-P", "pretrain.epochs=0", "-P", "finetune.contrastive_weight=0.35")
    succeed(project, "mlflow", "run", ".", "--env-manager", "local", *joint, "-P", "tune.trials=1")
    assert tracked_files(project) == before
    (run,) = (project / "runs").glob("*")
    assert pd.read_csv(run / "finetune/history.csv")["contrastive_loss"].notna().any()
    assert len(pd.read_csv(run / "pretrain/history.csv")) == 1  # DVC plots no table without rows
    tuned = yaml.safe_load((run / "tune/best_params.yaml").read_text(encoding="utf-8"))
    kept = max((project / "state/finetune").glob("*/finished.pt"), key=lambda file: file.stat().st_mtime)
    identity = torch.load(kept, weights_only=True)["identity"]
    assert {name: json.loads(identity[f"pretrain.{name}"]) for name in tuned} == pytest.approx(tuned)
    assert json.loads(identity["data"]).endswith("none")  # no weights of pre-training
    assert aliases(project)["production"] == production
    assert aliases(project)["candidate"] != production


def running_trials(project: Path) -> list[int]:
    """Processes that are at work on a trial of any study of a project."""
    found = []
    for file in (project / "state/tune").glob("*/study.db"):
        study = optuna.load_study(study_name=file.parent.name, storage=f"sqlite:///{file}")
        running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        found += [int(trial.user_attrs["owner"].rpartition(" ")[2]) for trial in running if "owner" in trial.user_attrs]
    return found


def test_every_stage_and_the_ablation_are_entry_points_with_typed_parameters() -> None:
    declared = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(declared) == {"main", "ablation", *stages}
    for name, entry in declared.items():
        expected = {"profile", "device", "from_run"} | ({"promote"} if name == "main" else set())
        assert set(entry["parameters"]) == expected, name
        assert all(given["type"] == "string" and "default" in given for given in entry["parameters"].values()), name
        used = re.findall(r"--([a-z-]+) \{(\w+)\}", entry["command"])
        assert {parameter for _, parameter in used} == expected, name
        assert all(option.replace("-", "_") == parameter for option, parameter in used), name
        assert entry["command"].startswith(f"python -m pipelines.{name} --own-folder"), name


def test_pictures_are_artifacts_of_mlflow_and_curves_plots_of_dvc(project: Path) -> None:
    shown = json.loads(succeed(project, "dvc", "plots", "show", "--json"))
    assert "errors" not in shown, shown
    tables = {"outputs/pretrain/history.csv", "outputs/finetune/history.csv", "outputs/evaluate/confusion.csv"}
    assert tables | {"pretraining_watched", "finetuning_watched"} <= set(shown["data"])
    pictures = {
        "tune": {"history.png", "importances.png", "slice.png", "contour.png"},
        "pretrain": {"pictures/embedding_start.png", "pictures/embedding_end.png"},
        "evaluate": {"confusion.png", "sensitivity.png", "reliability.png", "errors.png"},
    }
    for stage, names in pictures.items():
        kept = {path.name for path in (project / "mlartifacts").rglob(f"outputs/{stage}/**/*.png")}
        assert {Path(name).name for name in names} <= kept


def test_a_fresh_clone_compares_metrics_and_plots(project: Path, tmp_path: Path) -> None:
    """It had neither: they were outputs in the cache of the machine that made them."""
    clone = tmp_path / "clone"
    succeed(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    shown = json.loads(succeed(clone, "dvc", "metrics", "show", "--json"))
    (metrics,) = shown[""]["data"].values()
    assert len(metrics["data"]) <= 6 and 0 < len(metrics["data"]["sensitivity"]) <= 4
    plots = json.loads(succeed(clone, "dvc", "plots", "diff", "HEAD", "--json"))
    assert "errors" not in plots and "outputs/evaluate/confusion.csv" in plots["data"], plots
    for command in (("metrics", "diff"), ("exp", "show", "--csv")):
        said = succeed(clone, "dvc", *command)
        assert "failed" not in said.lower(), said


def test_a_rebuild_on_the_same_machine_leaves_dvc_lock_clean(project: Path) -> None:
    """The decision of promote was an output: it names times and versions, which differ in every registry."""
    lock = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))
    assert "outs" not in lock["stages"]["promote"]


def test_supcam_tune_replaces_a_killed_worker_and_holds_the_number_of_trials(project: Path) -> None:
    before = tracked_files(project)
    command = ["supcam", "tune", "--workers", "2", "--trials", "5"]
    process = subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not (workers := running_trials(project)):
        assert process.poll() is None and time.monotonic() < until, "no worker began a trial"
        time.sleep(0.1)
    os.kill(workers[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    name = re.search(r"5 trials .* of study (\S+)", said)
    assert name, said
    # The study of dvc repro, whose two trials are not repeated.
    file = project / "state/tune" / name.group(1) / "study.db"
    attempts = optuna.load_study(study_name=name.group(1), storage=f"sqlite:///{file}").trials
    lost = [trial for trial in attempts if trial.state.name == "FAIL" and "error" not in trial.user_attrs]
    assert len(lost) == 1 and len(attempts) == 6
    decided = sorted(trial.user_attrs["slot"] for trial in attempts if trial not in lost)
    assert decided == [0, 1, 2, 3, 4]
    assert tracked_files(project) == before


def test_one_stage_goes_on_from_an_earlier_run(project: Path) -> None:
    before = tracked_files(project)
    succeed(project, "mlflow", "run", ".", "--env-manager", "local", "-e", "split", "-P", "split.seed=3")
    store = store_of(project)
    experiment = store.get_experiment_by_name("supcam").experiment_id
    found = store.search_runs([experiment], "tags.`mlflow.project.entryPoint` = 'split'")[0]
    run = found.info
    assert run.run_name == "split split.seed=3"
    assert run.status == "FINISHED"
    assert found.data.tags["supcam.profile"] == "sample"
    assert found.data.tags["supcam.git.commit"]
    succeed(
        project, "mlflow", "run", ".", "--env-manager", "local", "-e", "compose",
        "-P", f"from_run={run.run_id}", "-P", "compose.count=6",
    )  # fmt: skip
    # Another seed divides the cases otherwise, and composition took its sources from that split.
    split = next((project / "runs").glob("split-*")) / "split/manifest.csv"
    composed = next((project / "runs").glob("compose-*")) / "compose/manifest.csv"
    mine, usual = (set(_training(path)) for path in (split, project / "outputs/split/manifest.csv"))
    assert mine != usual
    parents = pd.read_csv(composed, dtype=str)["parents"].str.split(";").explode()
    assert set(parents) <= mine
    assert tracked_files(project) == before


def test_processes_that_share_a_stage_leave_one_run_and_one_set_of_outputs(project: Path) -> None:
    before, folders = tracked_files(project), set((project / "runs").glob("*"))
    shared = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = succeed(project, "python", *shared, "-m", "pipelines.pretrain", "--own-folder", "--runtime.seed", "7")
    assert said.count("pretrain: 2 epochs") == 1
    made = set((project / "runs").glob("*")) - folders
    assert [(folder / "pretrain/encoder.safetensors").is_file() for folder in made] == [True]
    client = store_of(project)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`mlflow.runName` = 'pretrain' AND params.`runtime.seed` = '7'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [metric.step for metric in client.get_metric_history(runs[0].info.run_id, "loss")] == [0, 1]
    assert tracked_files(project) == before


def test_a_stage_that_processes_cannot_share_is_refused(project: Path) -> None:
    done = call(project, "python", "-m", "pipelines.promote", WORLD_SIZE="2", RANK="1")
    assert done.returncode == 2
    assert "stage promote runs in one process, not in 2; torchrun may start pretrain and finetune" in done.stderr


def test_a_prediction_is_explained_by_a_figure(project: Path) -> None:
    crop = sorted((project / "data/crops").rglob("*.png"))[0]
    said = succeed(project, "supcam", "explain", str(crop), "--output", "why.png")
    assert "probability" in said
    with Image.open(project / "why.png") as figure:
        assert min(figure.size) > 200
    (project / "why.png").unlink()


def test_labels_go_out_for_review_and_come_back(project: Path) -> None:
    before = tracked_files(project)
    said = succeed(project, "supcam", "review", "sheet", "--folds", "2", "--epochs", "1")
    assert "of 160 labels are contradicted" in said
    assert "<h1>Labels to review" in (project / "reports/review/review.html").read_text(encoding="utf-8")
    assert "no label changed" in succeed(project, "supcam", "review", "apply", "reports/review/review.csv")
    assert tracked_files(project) == before


def tutorial_commands(text: str) -> list[str]:
    """Lines of the tutorial's shell blocks, comments and blocks that are marked as skipped left out."""
    blocks = re.findall(r"(<!-- test: skip[^\n]*-->\n)?```sh\n(.*?)```", text, flags=re.S)
    lines = [line for skipped, block in blocks if not skipped for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def test_the_tutorial_runs(project: Path, tmp_path: Path) -> None:
    commands = tutorial_commands(TUTORIAL.read_text(encoding="utf-8"))
    assert {"dvc repro", "supcam show", "supcam models"} <= set(commands)
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True)
    for command in commands:
        if command == "supcam check":  # so little training need not pass
            assert call(copy, *command.split()).returncode in (0, 3)
            continue
        said = succeed(copy, "bash", "-c", command)
        if command == "dvc repro":
            assert "Running stage 'finetune'" not in said, "the project has other crops than the tutorial's"
        if command == "supcam show":
            assert all(label in said for label in TYPE_LABELS) and "correct. Next:" in said
    for made in ("types.csv", "sorted/predictions.csv", "why.png", "reports/evaluation/report.html"):
        assert (copy / made).is_file(), made


def _training(manifest: Path) -> list[str]:
    frame = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    return frame.loc[frame["split"] == "train", "crop_id"].tolist()


def test_changing_one_crop_starts_a_new_study(project: Path, tmp_path: Path) -> None:
    changed = tmp_path / "project"
    shutil.copytree(project, changed, symlinks=True)
    studies = {path.name for path in (changed / "state/tune").iterdir()}
    crop = sorted((changed / "data/crops").rglob("*.png"))[0]
    with Image.open(crop) as opened:
        pixels = np.array(opened)
    pixels[pixels < 128] += 1
    crop.unlink()  # the file may be a link into the DVC cache
    Image.fromarray(pixels).save(crop)
    succeed(changed, "dvc", "repro", "--single-item", "tune")
    assert studies < {path.name for path in (changed / "state/tune").iterdir()}


def test_corrupt_crop_stops_the_pipeline_by_name(project: Path, tmp_path: Path) -> None:
    broken = tmp_path / "project"
    shutil.copytree(project, broken, symlinks=True)
    crop = sorted((broken / "data/crops").rglob("*.png"))[0]
    crop.unlink()
    crop.write_bytes(b"\x89PNG no more")
    done = call(broken, "dvc", "repro")
    assert done.returncode != 0
    assert crop.name in done.stdout + done.stderr
    assert "exited with 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_setting_is_named_with_its_range(project: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "project"
    shutil.copytree(project, wrong, symlinks=True)
    change_settings(wrong, {"pretrain": {"temperature": 7}})
    done = call(wrong, "python", "-m", "pipelines.pretrain")
    assert done.returncode == 2
    assert "pretrain.temperature" in done.stderr
    assert "7" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def fresh_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without data and runs."""
    folder = tmp_path_factory.mktemp("fresh checkout")
    copy_checkout(folder)
    return folder


@pytest.fixture
def without_data(fresh_checkout: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test."""
    return shutil.copytree(fresh_checkout, tmp_path / "project", symlinks=True)


def test_no_data_names_the_command_that_brings_it(without_data: Path) -> None:
    done = call(without_data, "python", "-m", "pipelines.validate")
    assert done.returncode == 2
    assert "dvc pull data.dvc" in done.stderr
    assert "Traceback" not in done.stderr


def test_repro_without_data_says_which_are_missing(without_data: Path) -> None:
    shutil.copy(ROOT / "data.dvc", without_data)
    done = call(without_data, "dvc", "repro")
    assert done.returncode != 0
    assert "missing data 'source': data" in done.stderr
    assert "missing data 'source'" in (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert not (without_data / "mlflow.db").exists()


def test_no_model_in_production_yet(without_data: Path) -> None:
    done = call(without_data, "supcam", "predict", ".")
    assert done.returncode == 1
    assert "production" in done.stderr
    assert "Traceback" not in done.stderr
