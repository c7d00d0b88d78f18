"""Fixtures of the tests of the data."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.drawing import write_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "lab one")


@pytest.fixture
def manifest() -> Callable[..., pd.DataFrame]:
    """Makes a manifest of given cases: {case: {type: count}}, without images."""

    def make(cases: dict[str, dict[str, int]], source: str = "lab") -> pd.DataFrame:
        rows = []
        for case, kinds in cases.items():
            for kind, count in kinds.items():
                for index in range(count):
                    name = f"{source}/{case or 'none'}/{kind}/{index}.png"
                    rows.append((name, f"crops/{name}", kind, case, source, f"hash of {name}", 30, 40, True))
        columns = ("crop_id", "path", "type", "case_id", "source", "sha256", "width", "height", "label_certain")
        return pd.DataFrame(rows, columns=list(columns))

    return make


@pytest.fixture(scope="session")
def empty_dvc_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty DVC project without git, as small as one can be."""
    root = tmp_path_factory.mktemp("dvc") / "project"
    root.mkdir()
    for command in (("init", "--no-scm", "--quiet"), ("config", "core.analytics", "false")):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, check=True)
    return root


@pytest.fixture
def dvc_project(empty_dvc_project: Path, tmp_path: Path) -> Path:
    """A copy of an empty DVC project."""
    return Path(shutil.copytree(empty_dvc_project, tmp_path / "project"))
