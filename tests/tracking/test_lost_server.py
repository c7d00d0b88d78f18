"""A store that goes away during a run holds nothing up; what it missed is sent later, or by running the stage again."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supcam.settings import Settings
from supcam.tracking import Run, open_client, sender, stage_run
from tests.support.imports import ROOT
from tests.support.servers import MlflowServer

PROGRAM = """
import time
from pathlib import Path
from supcam.tracking import stage_run
from supcam.training.pretraining import pretrain
from tests.tuning.test_objective import crops, settings

def wait_after_the_first(epoch, _row):
    Path("trained").touch()
    while epoch == 0 and not Path("go on").exists():
        time.sleep(0.05)

chosen = settings()
chosen = chosen.model_copy(update={"pretrain": chosen.pretrain.model_copy(update={"epochs": 3})})
with stage_run("pretrain", Path.cwd(), chosen) as run:
    print(run.run_id, flush=True)
    pretrain(crops(64, 1), crops(24, 2), chosen, state_dir=Path("state/pretrain"), log=run.log,
             on_epoch=wait_after_the_first)
"""


@contextmanager
def away(project: Path, run: Run) -> Iterator[None]:
    """The store cannot be opened within the block: a folder lies in the place of its file."""
    run.flush()
    run.client._tracking_client.store.engine.dispose()
    database = project / "mlflow.db"
    database.rename(project / "away.db")
    database.mkdir()
    yield
    run.flush()
    database.rmdir()
    (project / "away.db").rename(database)


def train(project: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(client: Any, run_id: str) -> list[int]:
    return sorted(item.step for item in client.get_metric_history(run_id, "loss"))


@pytest.mark.stress
def test_training_outlives_its_server_and_a_second_run_sends_what_is_missing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.start()
    try:
        first = train(project)
        assert first.stdout is not None
        cut_off = first.stdout.readline().strip()
        until = time.monotonic() + 120
        while not (project / "trained").exists() and time.monotonic() < until:
            time.sleep(0.05)
        server.kill()
        (project / "go on").touch()
        _, errors = first.communicate(timeout=900)
        assert first.returncode == 0, errors
        assert errors.count("warning: tracking store") == 1 and "run the stage again" in errors
        assert "Traceback" not in errors
        (project / "trained").unlink()
        server.start()
        second = train(project)
        said, errors = second.communicate(timeout=900)
        assert second.returncode == 0, errors
        assert not (project / "trained").exists(), "an epoch was trained again"
        client = open_client(project)
        whole = said.split()[0]  # MLflow adds where to look at it
        assert losses(client, cut_off) in ([], [0])
        assert losses(client, whole) == [0, 1, 2]
        assert client.get_run(whole).info.status == "FINISHED"
    finally:
        server.kill()


def test_what_a_store_missed_is_sent_when_it_answers_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial that ended in the meantime ends true in the store as well; the second outage gives no second warning."""
    monkeypatch.setattr(sender, "_RETRY_AFTER", 0.0)
    with stage_run("tune", project, Settings()) as run:
        with run.child("trial 0") as trial:
            outage = away(project, run)
            outage.__enter__()
            trial.log({"value": 0.5})
            trial.log_text("written while the store was away", "notes/late.txt")
        run.set_tags({"late": "yes"})
        run.log({"loss": 1.0}, 1)
        outage.__exit__(None, None, None)
        with away(project, run):
            run.log({"loss": 2.0}, 2)
    client = open_client(project)
    found, below = client.get_run(run.run_id), client.get_run(trial.run_id)
    assert (found.info.status, found.data.tags["late"]) == ("FINISHED", "yes")
    assert losses(client, run.run_id) == [1, 2]
    assert (below.info.status, below.data.metrics) == ("FINISHED", {"value": 0.5})
    assert Path(client.download_artifacts(trial.run_id, "notes/late.txt")).read_text().startswith("written while")
    assert capsys.readouterr().err.count("warning: tracking store") == 1


def test_a_trial_begun_without_the_store_is_run_and_not_tracked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_RETRY_AFTER", 0.0)
    with stage_run("tune", project, Settings()) as run:
        with away(project, run), run.child("trial 0") as trial:
            trial.log({"value": 0.5})
            trial.log_params({"margin": 0.1})
        assert trial.run_id == ""
    client = open_client(project)
    assert client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'") == []
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_errors_of_the_caller_are_raised_and_hold_up_nothing(project: Path) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=r"bad\?name"), stage_run("tune", project, Settings()) as run:
        run.set_tags({"bad?name": "x"})
    with pytest.raises(MlflowException, match=r"also\?bad"), stage_run("tune", project, Settings()) as run:
        run.log({"also?bad": 1.0})
        run.log({"good": 1.0})
        run.flush()
    assert run.client.get_run(run.run_id).info.status == "FAILED"


def test_a_store_that_does_not_answer_does_not_hold_up_training() -> None:
    """The thread that sends held the buffer while it waited, and with it every step."""
    answers, asked = threading.Event(), threading.Event()
    sent: list[int] = []

    def log_batch(_run_id: str, metrics: list[object]) -> None:
        asked.set()
        assert answers.wait(60)
        sent.append(len(metrics))

    waiting = sender.Sender(SimpleNamespace(log_batch=log_batch), "store")
    waiting.log("run", {"loss": 1.0}, 0)
    threading.Thread(target=waiting.flush, daemon=True).start()
    assert asked.wait(30)
    waiting.log("run", {"loss": 2.0, "rate": 0.1}, 1)  # would never return: the answer comes after it
    answers.set()
    waiting.close()
    assert sum(sent) == 3
