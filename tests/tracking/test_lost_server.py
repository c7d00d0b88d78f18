"""A server lost during a run neither stops nor loses it: kept locally, then sent by the next call or by one command."""

from pathlib import Path

import pytest

from supcam.settings import Settings
from supcam.tracking import open_client, pending_uploads, spool, stage_run, upload_pending
from tests.servers import MlflowServer


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


def test_what_a_locked_store_did_not_take_is_sent_by_the_next_call(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store comes back during the run: nothing is left to send at its end."""
    monkeypatch.setattr(spool, "_RETRY_DELAYS", (0.01,))
    monkeypatch.setattr(spool, "_LOST_FOR", 0.0)
    database = project / "mlflow.db"
    with stage_run("tune", project, Settings()) as run:
        run.flush()
        run.client._tracking_client.store.engine.dispose()
        database.rename(project / "away.db")
        database.mkdir()  # a folder in its place: the store cannot be opened
        run.set_tags({"late": "yes"})
        run.log({"loss": 1.0}, 1)
        run.flush()
        assert [path.name for path in pending_uploads(project)] == [run.run_id]
        database.rmdir()
        (project / "away.db").rename(database)
        run.set_tags({"later": "yes"})
        assert pending_uploads(project) == []
    found = open_client(project).get_run(run.run_id)
    assert {"late", "later"} <= set(found.data.tags) and found.data.metrics == {"loss": 1.0}
    assert found.info.status == "FINISHED"
