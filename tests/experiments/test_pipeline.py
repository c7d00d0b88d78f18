"""The ablation in real processes: one parent run, a run a job, nothing trained twice, and the folds command."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import call, small_project, succeed

QUICK = {
    "ablation.rows": "[forest, ce, unified]",
    "ablation.reference": "ce",
    "ablation.folds": "2",
    "pretrain.epochs": "1",
    "finetune.epochs": "1",
    "finetune.head_epochs": "0",
    "finetune.test_views": "1",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with validated data and no outputs."""
    made = small_project(tmp_path_factory.mktemp("ablation") / "project")
    succeed(made, "supcam", "validate")
    return made


def tables(project: Path) -> dict[Path, dict[str, Any]]:
    """Results by file."""
    return {file: json.loads(file.read_text()) for file in project.glob("runs/ablation-*/ablation/ablation.json")}


@pytest.fixture(scope="module")
def first(project: Path) -> dict[str, Any]:
    """The table of a first run, started by MLflow."""
    options = [part for name, value in QUICK.items() for part in ("-P", f"{name}={value}")]
    succeed(project, "mlflow", "run", ".", "--env-manager", "local", "-e", "ablation", *options)
    (content,) = tables(project).values()
    return content


def test_one_table_one_parent_and_a_run_for_each_job(project: Path, first: dict[str, Any]) -> None:
    assert list(first["rows"]) == ["forest", "ce", "unified"]
    assert first["rows"]["unified"]["paired"]["p_value"] <= 1
    assert all(row["crops"] == 160 for row in first["rows"].values())
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.as_posix().replace(' ', '%20')}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    (parent,) = client.search_runs(experiments, "tags.`mlflow.project.entryPoint` = 'ablation'")
    jobs = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(jobs) == 6 and {job.info.status for job in jobs} == {"FINISHED"}
    assert {job.data.tags["supcam.row"] for job in jobs} == {"forest", "ce", "unified"}
    assert all("held_out_macro_sensitivity" in job.data.metrics for job in jobs)
    assert parent.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(parent.info.run_id, "outputs/ablation")} >= {
        "outputs/ablation/ablation.json", "outputs/ablation/rows.png"
    }  # fmt: skip


def test_a_second_run_keeps_what_is_finished_and_two_workers_add_the_rest(project: Path, first: dict[str, Any]) -> None:
    """Two of three rows are finished, one is new."""
    before = set(tables(project))
    options = [part for name, value in {**QUICK, "ablation.rows": "[ce, unified, unified_margin]"}.items()
               for part in (f"--{name}", value)]  # fmt: skip
    said = succeed(project, "python", "-m", "pipelines.ablation", *options, "--ablation.workers", "2")
    assert "2 jobs run, 4 kept from before" in said
    (second,) = (content for file, content in tables(project).items() if file not in before)
    assert first["rows"]["ce"]["accuracy"] == second["rows"]["ce"]["accuracy"]


def test_a_mistake_is_one_line_and_trains_nothing(project: Path) -> None:
    done = call(project, "python", "-m", "pipelines.ablation")
    assert done.returncode == 2 and "ablation.folds = 0 needs the split" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_folds_command_judges_every_crop_once(project: Path) -> None:
    settings = [f"{name}={value}" for name, value in QUICK.items() if not name.startswith("ablation")]
    command = ("python", "-m", "supcam.experiments.folds", "--folds", "2", "--docs", "--set", *settings)
    lines = [json.loads(line) for line in succeed(project, *command).splitlines() if line.startswith("{")]
    assert {"accuracy", "macro_sensitivity", "folds_done"} <= {line["name"] for line in lines}
    content = json.loads((project / "reports/folds/folds.json").read_text())
    assert content["subsets"]["all crops"]["crops"] == 160
    assert "## Cases never seen: 2-fold, 1 seed" in (project / "docs/results.md").read_text()
    again = [json.loads(line) for line in succeed(project, *command).splitlines() if line.startswith("{")]
    assert again[-1] == {"name": "cells_kept", "value": 2, "unit": "cells"}
