"""The stand-in has ChrCluster's form, and what is not ChrCluster is refused; the whole experiment is a stress test."""

import json
import zipfile
from pathlib import Path

import pytest

from benchmarks import chrcluster as module
from benchmarks.chrcluster import COUNTS, draw_stand_in, run_experiment
from supcam.errors import UsageError
from tests.ablation.conftest import quick
from tests.imports import ROOT
from tests.project import small_project, succeed


def test_the_stand_in_is_a_zip_of_numeric_folders(tmp_path: Path) -> None:
    archive = draw_stand_in(tmp_path / "drawn.zip", counts=(6, 9, 5, 4), cases=2)
    names = zipfile.ZipFile(archive).namelist()
    found = {folder: sum(name.startswith(f"{folder}/") for name in names) for folder in "0123"}
    assert found == {"0": 6, "1": 9, "2": 5, "3": 4}
    assert sum(COUNTS) == 6592


def test_another_data_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTS", (6, 9, 5, 5))
    archive = draw_stand_in(tmp_path / "drawn.zip", counts=(6, 9, 5, 4), cases=2)
    with pytest.raises(UsageError):
        run_experiment(archive, quick(), ROOT, seeds=1, workers=1, into=tmp_path / "out")


@pytest.mark.stress
def test_the_documented_command_runs_to_its_end(tmp_path: Path) -> None:
    project = small_project(tmp_path / "project")
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    command = text[text.index("python -m benchmarks.chrcluster --stand-in") :].partition("```")[0]
    succeed(project, *command.replace("\\\n", " ").split())
    content = json.loads((project / "reports/chrcluster/chrcluster.json").read_text())
    counts = content["split"]["counts"]
    assert {part: sum(types.values()) for part, types in counts.items()} == {
        "train": 5273, "validation": 660, "test": 659
    }  # fmt: skip
    assert content["subsets"]["all crops"]["crops"] == 659
