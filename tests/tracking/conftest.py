"""A project with a store of its own, made quickly: the tables of one sqlite file are made once and copied."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supcam.tracking import open_client, quiet
from tests.support.servers import postgres, postgres_server

__all__ = ["empty_store", "postgres", "postgres_server", "project"]

quiet()


def git(root: Path, *args: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *args], cwd=root, capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_client(root)
    return root / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project under git, with a space in its path and no variable that names a store."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "a project"
    (root / "code" / "__pycache__").mkdir(parents=True)
    (root / "data" / "crops").mkdir(parents=True)
    (root / "data" / "manifest.csv").write_text("crop_id\na\n")
    (root / "data" / "crops" / "ä crop.png").write_bytes(bytes(range(256)))
    (root / "code" / "part.py").write_text("print(1)\n")
    (root / "code" / "__pycache__" / "part.pyc").write_bytes(b"compiled")
    (root / "params.yaml").write_text("tune:\n  rate: 1e-4\n  trials: 3\n  sure: no\nevaluate:\n  seed: 7\n")
    (root / "dvc.yaml").write_text(
        f"stages:\n  tune:\n    cmd: {sys.executable} -c \"open('result.csv','w').write('x')\"\n"
        "    deps: [data, code, data/manifest.csv]\n    params: [tune, evaluate.seed]\n    outs: [result.csv]\n"
    )
    (root / ".dvcignore").write_text("# compiled files are no code\n__pycache__/\n")
    (root / ".gitignore").write_text("mlflow.db*\nmlartifacts/\nstate/\n__pycache__/\n/data\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    shutil.copyfile(empty_store, root / "mlflow.db")
    monkeypatch.chdir(root)
    return root
