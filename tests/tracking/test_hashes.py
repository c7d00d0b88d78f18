"""Hashes equal the ones DVC itself writes."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from supcam.errors import UsageError
from supcam.tracking import path_hash, stage_inputs


def dvc(root: Path, *args: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *args, "-q"], cwd=root, check=True, capture_output=True, timeout=120)


def test_stage_inputs_equal_dvc_lock_and_dvc_add(project: Path) -> None:
    before = stage_inputs(project, "tune")
    dvc(project, "init")
    dvc(project, "add", "data", "--no-commit")
    dvc(project, "repro")
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]["tune"]  # PyYAML would read "no" as false
    assert before["deps"] == {entry["path"]: entry["md5"] for entry in lock["deps"]}
    recorded = lock["params"]["params.yaml"]
    assert before["params"] == {f"params.yaml:{key}": value for key, value in recorded.items()}
    added = YAML(typ="safe").load(project / "data.dvc")["outs"][0]["md5"]
    assert path_hash(project / "data", project) == added


def test_numbers_are_read_as_dvc_reads_them(project: Path) -> None:
    params = stage_inputs(project, "tune")["params"]
    assert params["params.yaml:tune"]["rate"] == pytest.approx(1e-4)
    assert params["params.yaml:tune"]["sure"] == "no"


def test_a_moved_dependency_is_hashed_where_it_lies(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.csv"
    moved.write_text("other")
    deps = stage_inputs(project, "tune", {"data/manifest.csv": moved})["deps"]
    assert deps["data/manifest.csv"] == path_hash(moved) != path_hash(project / "data" / "manifest.csv")


def test_a_folder_that_git_and_dvc_ignore_is_hashed_by_what_it_holds(project: Path) -> None:
    """Stages with a folder of their own write below runs/, and a study must not take up trials on other composites."""
    (project / ".dvcignore").write_text("runs\n__pycache__\n", encoding="utf-8")
    found = []
    for text in ("one", "two"):
        moved = project / "runs" / text
        moved.mkdir(parents=True)
        (moved / "part.py").write_text(text, encoding="utf-8")
        found.append(stage_inputs(project, "tune", {"code": moved})["deps"]["code"])
    assert found[0] != found[1]


def test_missing_dependency_is_none_and_unknown_stage_is_named(project: Path) -> None:
    (project / "data" / "manifest.csv").unlink()
    assert stage_inputs(project, "tune")["deps"]["data/manifest.csv"] is None
    with pytest.raises(UsageError, match=r"stage 'tunes' is not in .*dvc.yaml; it has tune"):
        stage_inputs(project, "tunes")


def test_one_changed_byte_changes_the_folder_hash(project: Path) -> None:
    before = path_hash(project / "data", project)
    (project / "data" / "crops" / "ä crop.png").write_bytes(bytes(255))
    assert path_hash(project / "data", project) != before
    compiled = path_hash(project / "code", project)
    (project / "code" / "__pycache__" / "part.pyc").write_bytes(b"again")
    assert path_hash(project / "code", project) == compiled
