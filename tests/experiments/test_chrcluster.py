"""The stand-in has ChrCluster's form, and what is not ChrCluster is refused; the whole experiment is a stress test."""

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.data.labels import CHRCLUSTER_COUNTS
from supcam.errors import UsageError
from supcam.experiments.chrcluster import draw_stand_in, run_experiment
from supcam.experiments.single import Recipe, from_one
from tests.experiments.conftest import quick
from tests.support.imports import ROOT
from tests.support.project import small_project, succeed


@pytest.fixture(scope="module")
def few() -> Iterator[dict[str, int]]:
    """ChrCluster with a hundredth of its crops."""
    counts = {"instance": 34, "touching": 60, "overlapping": 21, "touching-overlapping": 17}
    with pytest.MonkeyPatch.context() as patch:
        for name, count in counts.items():
            patch.setitem(CHRCLUSTER_COUNTS, name, count)
        yield counts


@pytest.fixture(scope="module")
def archive(few: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in of as many crops, of two cases."""
    return draw_stand_in(tmp_path_factory.mktemp("stand-in") / "drawn.zip", cases=2)


def test_the_experiment_from_the_zip_to_the_metrics(
    few: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small one in this process; runs go to a store of their own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    settings = quick(split={"protocol": "paper", "validation": 0.1, "test": 0.1}, compose={"count": 12, "workers": 1})
    archive = draw_stand_in(tmp_path / "drawn.zip", cases=4)
    into = tmp_path / "out"
    into.mkdir()
    content = run_experiment(archive, Recipe(tmp_path, settings, into))
    assert json.loads((into / "chrcluster.json").read_text()) == content
    counts = {part: sum(types.values()) for part, types in content["split"]["counts"].items()}
    assert sum(counts.values()) == sum(few.values())
    assert content["subsets"]["all crops"]["crops"] == counts["test"]
    assert 12 <= counts["test"] <= 15
    assert {"import", "validate", "compose", "finetune", "predict", "all"} <= set(content["seconds"])


def test_the_stand_in_is_a_zip_of_numeric_folders(few: dict[str, int], archive: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    found = [sum(name.startswith(f"{folder}/") for name in names) for folder in range(4)]
    assert found == list(few.values())


def test_numeric_folders_of_another_data_set_are_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHRCLUSTER_COUNTS, "instance", 35)
    with pytest.raises(UsageError, match=r"132 refused:\n  drawn/0/0000\.png lies in no folder named like a type"):
        run_experiment(archive, Recipe(tmp_path, quick(), tmp_path / "out"))


def test_another_data_set_is_refused(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "lab.zip"
    with zipfile.ZipFile(archive) as crops, zipfile.ZipFile(other, "w") as lab:
        for folder, label in enumerate(TYPE_LABELS):
            name = next(name for name in crops.namelist() if name.startswith(f"{folder}/"))
            lab.writestr(f"{label}/1.png", crops.read(name))
    with pytest.raises(UsageError, match=r"lab\.zip holds \{'instance': 1, .*; ChrCluster has .*Give its zip"):
        run_experiment(other, Recipe(tmp_path, quick(), tmp_path / "out"))


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_numbers_of_seeds_and_workers_begin_with_one(text: str) -> None:
    assert from_one("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="is not allowed; allowed are whole numbers from 1"):
        from_one(text)


@pytest.mark.stress
def test_the_documented_command_runs_to_its_end(tmp_path: Path) -> None:
    project = small_project(tmp_path / "project")
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    command = text[text.index("python -m supcam.experiments.chrcluster --stand-in") :].partition("```")[0]
    succeed(project, *command.replace("\\\n", " ").split())
    content = json.loads((project / "reports/chrcluster/chrcluster.json").read_text())
    counts = content["split"]["counts"]
    # 80/10/10 of each type by the largest remainder: 813 are 650.4, 81.3 and 81.3, so the odd crop is trained on.
    shares = {part: [counts[part][label] for label in TYPE_LABELS] for part in ("train", "validation", "test")}
    tenth = [171, 303, 104, 81]
    assert shares == {"train": [1370, 2423, 830, 651], "validation": tenth, "test": tenth}
    assert content["subsets"]["all crops"]["crops"] == 659
