"""The commands about data: what they write, and how a wrong call ends."""

import json
import shutil
from pathlib import Path

import pytest

from supcam.data.importers import import_sources
from supcam.data.manifest import manifest_hash, read_manifest
from supcam.files import write_text
from supcam.settings import profile_path
from tests.conftest import Call
from tests.support.drawing import write_source


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with imported crops of three cases and the working directory in it, without version control."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    shutil.copy(profile_path("sample"), root / "params.yaml")
    import_sources([write_source(tmp_path / "lab")], root / "data", case_pattern="(case[0-9])")
    monkeypatch.chdir(root)
    return root


def test_folder_mapped_twice_is_refused(project: Path, call: Call) -> None:
    """The last of two types for one folder used to win without a word."""
    ended = call("import", project.parent / "lab", "--map", "0=instance,1=touching,0=touching")
    assert ended.code == 2 and "names the folder 0 twice" in ended.err


def test_folds_are_written_for_a_user(project: Path, call: Call) -> None:
    ended = call("data", "folds", "--folds", 3, "--into", "folds")
    assert ended.code == 2 and "were not validated" in ended.err
    frame = read_manifest(project / "data" / "manifest.csv")
    linked = [[frame.loc[frame["case_id"] == case, "crop_id"].iloc[0] for case in ("case0", "case1")]]
    report = {"manifest_hash": manifest_hash(frame), "linked": linked}
    write_text(project / "reports" / "validate" / "validation.json", json.dumps(report))
    ended = call("data", "folds", "--folds", 3, "--into", "folds")
    assert ended.code == 2 and "allowed are 2 to 2" in ended.err  # the link leaves two groups
    written = call("data", "folds", "--folds", 2, "--into", "folds")
    assert written.code == 0 and "sha256" in written.out
    lists = {path.name: path.read_text().splitlines() for path in (project / "folds").glob("*.txt")}
    assert sorted(lists) == ["fold_0.txt", "fold_1.txt"]
    assert sorted(crop_id for ids in lists.values() for crop_id in ids) == sorted(frame["crop_id"])
    ended = call("data", "folds", "--folds", 2, "--into", "folds")
    assert ended.code == 2 and "is not empty" in ended.err
