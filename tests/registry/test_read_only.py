"""A project that may only be read: what reads works, what writes says so in one line and changes nothing."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.data.importers import import_sources
from supcam.registry.store import Registry
from supcam.settings import profile_path
from tests.registry.conftest import drawn_crops

PROGRAM = """
import contextlib, io, json, sys
from supcam.cli import main
for command in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["supcam", *command]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
# Root may write everywhere; without these rights it is a user like any other.
DROPPED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


def without_rights() -> list[str]:
    """What to put before a command so that it keeps to the permissions of files."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("this runs as root, who may write everywhere, and setpriv (util-linux) is not there")
    command = [*DROPPED, "true"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this runs as root, who may write everywhere, and may not give up that right here")
    return list(DROPPED)


@pytest.fixture
def project(first_promoted: Registry, tmp_path: Path) -> Iterator[Path]:
    """A project with its store inside, nothing of it writable; version 1 is in production."""
    folder = tmp_path / "project"
    (folder / "crops").mkdir(parents=True)
    for name in ("mlflow.db", "mlartifacts"):
        (tmp_path / name).rename(folder / name)
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    shutil.copy(profile_path("sample"), folder / "params.yaml")
    for index, crop in enumerate(drawn_crops(4, 6)):
        Image.fromarray(crop).save(folder / "crops" / f"{index}.png")
    for label, crop in zip(TYPE_LABELS, sorted((folder / "crops").iterdir()), strict=True):
        (tmp_path / "labelled" / label).mkdir(parents=True)
        shutil.copy(crop, tmp_path / "labelled" / label)
    import_sources([tmp_path / "labelled"], folder / "data")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def content(folder: Path) -> dict[str, str]:
    """Hash of every file of a project by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_read_only_project_is_read_and_says_what_it_cannot_write(project: Path, tmp_path: Path) -> None:
    run = Registry(f"sqlite:///{project / 'mlflow.db'}").version(2).run_id
    kept_into = str(tmp_path / "kept")
    reads = [["models"], ["history"], ["predict", "crops"], ["diff", "1", "2"], ["pull", "--into", kept_into]]
    writes = [["promote", run], ["rollback", "--to", "2"], ["import", str(tmp_path / "labelled")]]
    before = content(project)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [*without_rights(), sys.executable, "-c", PROGRAM, json.dumps(reads + writes)],
        cwd=project, env=kept, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(reads) + len(writes), done.stderr
    for command, (code, out, err) in zip(reads, said, strict=False):
        assert code == 0 and out, (command, err)
    for command, (code, _, err) in zip(writes, said[len(reads) :], strict=True):
        lines = [line for line in err.splitlines() if line.strip()]
        assert code in (1, 2) and len(lines) == 1, (command, code, err)
        assert "cannot be written" in err or "Permission denied" in err, (command, err)
        assert "Traceback" not in err and "sqlalchemy" not in err.lower()
    assert "Traceback" not in done.stderr
    assert content(project) == before
    assert (tmp_path / "kept" / "model.onnx").is_file()
