"""`supcam evaluate` with the light engine: labelled folders, tables and pages, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from supcam.cli.app import app
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.registry.package import write_checksums
from supcam.serving.engine import PackageError


def run(*arguments: object) -> Exception | None:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if isinstance(done.exception, SystemExit):
        return None if not done.exit_code else done.exception
    return done.exception  # type: ignore[return-value]


def test_a_table_of_labels_is_judged(labelled: Path, package: Path, crops: CropSet, tmp_path: Path) -> None:
    assert run("--data", labelled, "--model", package, "--into", tmp_path / "out") is None
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["crops"], metrics["cases"]) == (96, 4)
    seen = int((crops.frame["split"] == "train").sum())
    assert any(note.startswith(f"{seen} of 96 crops trained or tuned") for note in metrics["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and page.count("<img") >= 4


def test_a_folder_per_type_without_cases_and_a_missing_type(
    package: Path, crops: CropSet, data: Path, tmp_path: Path
) -> None:
    for path, kind in zip(crops.frame["path"], crops.frame["type"], strict=True):
        if kind != "overlapping":
            (tmp_path / "lab" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / path, tmp_path / "lab" / kind / path.replace("/", "-"))
    assert run("--data", tmp_path / "lab", "--model", package, "--into", tmp_path / "out") is None
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["per_type"]["overlapping"]["sensitivity"] is None
    notes = " ".join(metrics["notes"])
    assert "no crop of type overlapping" in notes and "no crop names its case" in notes


def test_a_model_compared_with_itself(labelled: Path, package: Path, tmp_path: Path) -> None:
    arguments = ("--data", labelled, "--model", package, "--compare", package)
    assert run(*arguments, "--into", tmp_path / "out") is None
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["comparison"]
    assert found["mcnemar"] == {"only_model": 0.0, "only_reference": 0.0, "p_value": 1.0}
    assert found["accuracy"]["difference"] == 0.0 == found["accuracy"]["low"]


def test_an_empty_folder_is_refused(package: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = run("--data", tmp_path / "empty", "--model", package, "--into", tmp_path / "out")
    assert isinstance(error, UsageError) and "empty" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_label_set_is_refused(labelled: Path, package: Path, tmp_path: Path) -> None:
    other = shutil.copytree(package, tmp_path / "other")
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps({**card, "types": ["single", "cluster"]}))
    write_checksums(other)
    error = run("--data", labelled, "--model", other, "--into", tmp_path / "out")
    with pytest.raises(PackageError, match=r"types \['single', 'cluster'\]; allowed are \['instance', 'touching'"):
        raise error if error is not None else AssertionError


def test_what_was_not_judged_is_counted(labelled: Path, package: Path, tmp_path: Path) -> None:
    lab = shutil.copytree(labelled, tmp_path / "lab")
    lines = (lab / "labels.csv").read_text().splitlines()
    (lab / "labels.csv").write_text("\n".join(lines[:-7]) + "\n")
    (lab / "notes.txt").write_text("of the reader")
    assert run("--data", lab, "--model", package, "--into", tmp_path / "out") is None
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["crops"] == 89
    assert "7 images not listed in labels.csv, so not judged" in metrics["notes"]
    assert "7 images not listed in labels.csv" in (tmp_path / "out" / "report.html").read_text()


def test_folders_and_cases_are_named_as_for_an_import(
    package: Path, crops: CropSet, data: Path, tmp_path: Path
) -> None:
    for row in crops.frame.itertuples():
        folder = tmp_path / "lab" / str(TYPE_LABELS.index(str(row.type)) + 4)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / str(row.path), folder / f"{row.case_id}_{row.Index}.png")
    arguments = ("--data", tmp_path / "lab", "--model", package, "--into", tmp_path / "out")
    types = ",".join(f"{number + 4}={label}" for number, label in enumerate(TYPE_LABELS))
    assert run(*arguments, "--map", types, "--case-pattern", r"/(?P<case>[^/]+)_[0-9]+\.png$") is None
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["crops"], metrics["cases"]) == (96, 4)
    error = run(*arguments, "--map", "0")
    assert isinstance(error, UsageError) and "--map '0' is not of the form" in str(error)


def test_a_data_folder_is_read_as_it_is(package: Path, data: Path, tmp_path: Path) -> None:
    assert run("--data", data, "--model", package, "--into", tmp_path / "out") is None
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["crops"], metrics["cases"]) == (96, 4)
