"""A server lost during a run neither stops nor loses it: kept locally, then sent by the next call or by one command."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from supcam.errors import SupcamError
from supcam.settings import Settings
from supcam.tracking import Run, open_client, pending_uploads, spool, stage_run, upload_pending
from tests.support.servers import MlflowServer


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store counts as lost, and is tried again, at once."""
    monkeypatch.setattr(spool, "_RETRY_DELAYS", (0.01,))
    monkeypatch.setattr(spool, "_LOST_FOR", 0.0)


@pytest.mark.stress
def test_a_run_outlives_its_server(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MlflowServer(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.start()
    try:
        with stage_run("tune", project, Settings()) as run:
            run.log({"loss": 0.0}, 0)
            run.flush()
            server.kill()
            for step in range(1, 50):
                run.log({"loss": float(step)}, step)
            run.log_text("written while the server was away", "notes/late.txt")
            run.set_tags({"late": "yes"})
            with run.child("trial 0") as trial:
                trial.log({"value": 0.5})
        assert len(pending_uploads(project)) == 2
        server.start()
        sent = upload_pending(project)
        assert run.run_id in sent and len(sent) == 2 and not pending_uploads(project)
        client = open_client(project)
        found = client.get_run(run.run_id)
        assert (found.info.status, found.data.tags["late"]) == ("FINISHED", "yes")
        history = client.get_metric_history(run.run_id, "loss")
        assert sorted(item.step for item in history) == list(range(50))
        assert Path(client.download_artifacts(run.run_id, "notes/late.txt")).read_text().startswith("written while")
        child = client.get_run(next(item for item in sent if item != run.run_id))
        assert child.data.tags["mlflow.parentRunId"] == run.run_id
        assert (child.info.status, child.data.metrics) == ("FINISHED", {"value": 0.5})
    finally:
        server.kill()


@pytest.mark.usefixtures("impatient")
def test_what_a_locked_store_did_not_take_is_sent_by_the_next_call(project: Path) -> None:
    """The store comes back during the run: nothing is left to send at its end."""
    with stage_run("tune", project, Settings()) as run:
        with away(project, run):
            run.set_tags({"late": "yes"})
            run.log({"loss": 1.0}, 1)
            run.flush()
            assert [path.name for path in pending_uploads(project)] == [run.run_id]
        run.set_tags({"later": "yes"})
        assert pending_uploads(project) == []
    found = open_client(project).get_run(run.run_id)
    assert {"late", "later"} <= set(found.data.tags) and found.data.metrics == {"loss": 1.0}
    assert found.info.status == "FINISHED"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent_by_command", [False, True])
def test_a_trial_begun_without_the_store_goes_on_when_it_is_back(project: Path, sent_by_command: bool) -> None:
    """It went on under its local id, which the store does not know, and the trial failed."""
    with stage_run("tune", project, Settings()) as run, ExitStack() as trials:
        with away(project, run):
            trial = trials.enter_context(run.child("trial 0"))
            trial.log({"value": 0.5})
        if sent_by_command:
            assert len(upload_pending(project)) == 1
        trial.set_tags({"later": "yes"})
        assert pending_uploads(project) == []
    client = open_client(project)
    (found,) = client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert (found.info.status, found.data.metrics, found.data.tags["later"]) == ("FINISHED", {"value": 0.5}, "yes")


@pytest.mark.usefixtures("impatient")
def test_one_run_that_cannot_be_sent_does_not_keep_back_the_others(project: Path) -> None:
    with stage_run("tune", project, Settings()) as run, ExitStack() as trials:
        with away(project, run):
            first, second = (trials.enter_context(run.child(f"trial {number}")) for number in range(2))
            first.set_tags({"late": "yes"})
            second.set_tags({"late": "yes"})
        # As a kill in the middle of writing leaves it, and a run whose experiment is no more.
        with (project / "state/unsent" / second.run_id / "operations.jsonl").open("a") as file:
            file.write('{"op": "tags", "items": {"cut')
        gone = project / "state/unsent/local-gone"
        create = {"op": "create", "experiment_id": "777", "start_time": 0, "tags": {}, "name": "x"}
        spool.keep(gone, create)
        with pytest.raises(SupcamError, match=r"run local-gone could not be sent to .* 2 of 3 runs are sent"):
            upload_pending(project)
        assert pending_uploads(project) == [gone]
    found = run.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert [item.data.tags["late"] for item in found] == ["yes", "yes"]


def test_a_store_that_does_not_answer_does_not_hold_up_training(tmp_path: Path) -> None:
    """The thread that sends held the buffer while it waited, and with it every step."""
    answers, asked = threading.Event(), threading.Event()
    sent: list[int] = []

    def log_batch(_run_id: str, metrics: list[Mapping[str, object]]) -> None:
        asked.set()
        answers.wait(30)
        sent.append(len(metrics))

    outbox = spool.Outbox(SimpleNamespace(log_batch=log_batch), "run", tmp_path / "run")
    outbox.metrics({"loss": 1.0}, 0)
    threading.Thread(target=outbox.flush, daemon=True).start()
    assert asked.wait(10)
    started = time.perf_counter()
    outbox.metrics({"loss": 2.0, "rate": 0.1}, 1)
    assert time.perf_counter() - started < 5
    answers.set()
    outbox.flush()
    assert sum(sent) == 3
