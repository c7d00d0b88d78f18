"""A project that is moved, copied or cloned with its database keeps to its own artifacts."""

import shutil
import sqlite3
from collections import OrderedDict
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils

from supcam.tracking import artifact_location, local_location, open_client, settle, tracking_uri


def made(root: Path) -> str:
    """A project with a run that has an artifact; returns the run's id."""
    root.mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    client = open_client(root)
    experiment = client.create_experiment("supcam", artifact_location(root, tracking_uri(root)))
    run: str = client.create_run(experiment).info.run_id
    client.log_text(run, "here", "note.txt")
    return run


def read(root: Path, run: str) -> str:
    client = open_client(root)
    return Path(client.download_artifacts(run, "note.txt")).read_text(encoding="utf-8")


def addresses(root: Path) -> list[str]:
    with sqlite3.connect(root / "mlflow.db") as database:
        rows = database.execute(
            "SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM experiments"
        ).fetchall()
    return [row[0] for row in rows if "mlartifacts" in row[0]]


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # One process keeps the place of a run's artifacts; a project is not moved while a process works in it.
    monkeypatch.setattr(utils, "_artifact_repos_cache", Forgetful())


class Forgetful(OrderedDict[str, object]):
    """A cache that keeps nothing."""

    def __setitem__(self, key: str, value: object) -> None:
        pass


def test_a_moved_project_finds_its_artifacts(tmp_path: Path) -> None:
    run = made(tmp_path / "first project")
    (tmp_path / "first project").rename(tmp_path / "zweites Projekt %41")
    moved = tmp_path / "zweites Projekt %41"
    assert read(moved, run) == "here"
    open_client(moved).log_text(run, "more", "more.txt")
    assert not (tmp_path / "first project").exists()
    assert all(address.startswith(moved.as_uri()) for address in addresses(moved))


def test_a_copy_reads_and_writes_its_own(tmp_path: Path) -> None:
    run = made(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    before = {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    (tmp_path / "two").joinpath(next((tmp_path / "two").rglob("note.txt"))).write_text("there", encoding="utf-8")
    assert read(tmp_path / "two", run) == "there"
    client = open_client(tmp_path / "two")
    client.log_text(run, "x", "x.txt")
    client.log_text(client.create_run(client.get_experiment_by_name("supcam").experiment_id).info.run_id, "x", "x.txt")
    assert {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()} == before
    assert read(tmp_path / "one", run) == "here"


def test_a_copy_of_a_copy_and_the_way_back(tmp_path: Path) -> None:
    run = made(tmp_path / "one")
    for before, after in (("one", "two"), ("two", "three"), ("three", "one")):
        (tmp_path / before).rename(tmp_path / after)
        assert read(tmp_path / after, run) == "here"


def test_a_database_that_cannot_be_written_is_read_as_if_it_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    uri = tracking_uri(tmp_path / "two")
    old = next(address for address in addresses(tmp_path / "two") if address.endswith("/artifacts"))
    assert local_location(uri, old) == old.replace("/one/", "/two/")
    assert Path(local_location(uri, old).removeprefix("file://"), "note.txt").is_file()
    with sqlite3.connect(tmp_path / "two" / "mlflow.db") as holder:
        holder.execute("BEGIN IMMEDIATE")
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **{**named, "timeout": 0.1}))
        settle(uri)  # locked: left alone
    assert addresses(tmp_path / "two")[0].startswith((tmp_path / "one").as_uri())


def test_other_places_stay(tmp_path: Path) -> None:
    """An experiment that somebody made elsewhere on purpose is no part of the project."""
    made(tmp_path / "one")
    client = open_client(tmp_path / "one")
    elsewhere = (tmp_path / "disk" / "runs").as_uri()
    other = client.create_experiment("other", artifact_location=elsewhere)
    beside = client.create_experiment("beside", artifact_location=(tmp_path / "one-mlartifacts-more").as_uri())
    (tmp_path / "one").rename(tmp_path / "two")
    client = open_client(tmp_path / "two")
    assert client.get_experiment(other).artifact_location == elsewhere
    assert client.get_experiment(beside).artifact_location.endswith("/one-mlartifacts-more")


def test_a_server_and_a_new_database_are_left_alone(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:9", "postgresql://x/y", f"sqlite:///{tmp_path}/none.db", "sqlite:///:memory:"):
        settle(uri)
        assert local_location(uri, "file:///x/mlartifacts/1") == "file:///x/mlartifacts/1"
    assert list(tmp_path.iterdir()) == []
