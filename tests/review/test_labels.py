"""Suspicious labels go out for review and come back as a new data version; nothing changes silently."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supcam.data import folder
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest, write_manifest
from supcam.data.splits import split_manifest
from supcam.data.versions import require_checked_out
from supcam.errors import SupcamError, UsageError
from supcam.review.labels import apply_review, suspicious_labels
from supcam.review.sheet import write_sheet
from supcam.settings import SplitSettings
from tests.support.drawing import draw_crop, encode, write_source

Make = Callable[..., pd.DataFrame]


def sharp(labels: list[int], confidence: float = 0.9) -> np.ndarray:
    out = np.full((len(labels), 4), (1 - confidence) / 3)
    out[np.arange(len(labels)), labels] = confidence
    return out


def test_planted_label_errors_are_found(manifest: Make) -> None:
    frame = manifest({"a": {"instance": 40, "touching": 30, "overlapping": 20, "touching-overlapping": 10}})
    truth = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])
    frame.loc[[3, 50, 95], "type"] = ["touching", "overlapping", "instance"]
    rows = suspicious_labels(frame, sharp(list(truth)))
    assert set(rows["crop_id"]) == set(frame.loc[[3, 50, 95], "crop_id"])
    assert dict(zip(rows["type"], rows["suggestion"], strict=True)) == {
        "touching": "instance",
        "overlapping": "touching",
        "instance": "touching-overlapping",
    }
    assert suspicious_labels(manifest({"a": {"instance": 3}}), sharp([0, 0, 0])).empty


def test_unsure_predictions_accuse_nobody(manifest: Make) -> None:
    frame = manifest({"a": {"instance": 40, "touching": 40}})
    predictions = np.vstack([sharp([0] * 39 + [1] + [1] * 40)])
    predictions[39] = [0.3, 0.4, 0.2, 0.1]
    assert suspicious_labels(frame, predictions).empty


@pytest.mark.parametrize("bad", [np.ones((2, 4)), np.full((3, 4), 0.3), np.full((3, 4), np.nan)])
def test_what_is_not_a_probability_is_refused(manifest: Make, bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="probabilities"):
        suspicious_labels(manifest({"a": {"instance": 3}}), bad)


@pytest.fixture
def sheet(tmp_path: Path, dvc_project: Path) -> Path:
    data = dvc_project / "data"
    import_sources([write_source(tmp_path / "lab", per_type=3)], data)
    frame = read_manifest(data / "manifest.csv")
    frame.loc[frame["type"] == "instance", "type"] = "touching"
    rows = frame.head(3)[["crop_id", "path"]].assign(
        type="instance", suggestion="touching", confidence="0.950", corrected=""
    )
    return write_sheet(rows, data, tmp_path / "review", heading="Labels to review")


def fill(sheet: Path, column: str, values: list[str]) -> None:
    rows = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    rows[column] = values
    rows.to_csv(sheet, index=False)


def test_corrections_become_a_new_version(sheet: Path, dvc_project: Path) -> None:
    data = dvc_project / "data"
    page = (sheet.parent / "review.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    before, pointer = read_manifest(data / "manifest.csv"), (dvc_project / "data.dvc").read_text()
    assert apply_review([sheet], data).changed == {}
    assert (dvc_project / "data.dvc").read_text() == pointer
    fill(sheet, "corrected", ["Touching Overlapping", "", "instance"])
    report = apply_review([sheet], data)
    after = read_manifest(data / "manifest.csv")
    assert report.changed == {"instance -> touching-overlapping": 1}
    assert report.versioned
    assert (dvc_project / "data.dvc").read_text() != pointer
    assert (before["type"] != after["type"]).sum() == 1
    with pytest.raises(UsageError, match=r"line 2.*the sheet says instance.*Write a new sheet"):
        apply_review([sheet], data)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("corrected", ["", "cluster", ""], "line 3.*'cluster' is unknown"),
        ("crop_id", ["x", "y", "z"], "x is not in the data"),
        ("type", ["touching", "instance", "instance"], "the sheet says touching"),
        ("crop_id", ["lab/instance/case0 [0] a.png"] * 3, "line 3.*is listed twice"),
    ],
)
def test_wrong_sheets_change_nothing(
    sheet: Path, dvc_project: Path, column: str, values: list[str], message: str
) -> None:
    before = (dvc_project / "data" / "manifest.csv").read_bytes()
    fill(sheet, column, values)
    with pytest.raises(UsageError, match=message):
        apply_review([sheet], dvc_project / "data")
    assert (dvc_project / "data" / "manifest.csv").read_bytes() == before


def test_what_is_not_a_sheet_is_named(sheet: Path, dvc_project: Path) -> None:
    """An empty sheet ended in a traceback of the csv module."""
    data = dvc_project / "data"
    for content, message in ((b"", "is empty"), (bytes(range(256)), "not a readable"), (b"a\n", "lacks the column")):
        sheet.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            apply_review([sheet], data)
    with pytest.raises(UsageError, match="cannot be read"):
        apply_review([sheet.parent], data)


def test_doubled_id_of_the_manifest_is_named(sheet: Path, tmp_path: Path, dvc_project: Path) -> None:
    """It ended in a traceback of pandas."""
    data = tmp_path / "unversioned"
    frame = read_manifest(dvc_project / "data" / "manifest.csv")
    write_manifest(pd.concat([frame, frame.head(1)]), data / "manifest.csv")
    with pytest.raises(UsageError, match=r"is in the manifest twice. See: supcam validate"):
        apply_review([sheet], data)


def test_failing_dvc_leaves_the_labels_as_before(
    sheet: Path, dvc_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (dvc_project / "data" / "manifest.csv").read_bytes()
    fill(sheet, "corrected", ["touching", "", ""])

    def broken(_: Path) -> None:
        raise SupcamError("dvc add data failed: disk full")

    monkeypatch.setattr(folder, "record_version", broken)
    with pytest.raises(SupcamError, match="disk full"):
        apply_review([sheet], dvc_project / "data")
    assert (dvc_project / "data" / "manifest.csv").read_bytes() == before


def test_missing_columns_are_named(sheet: Path, dvc_project: Path) -> None:
    sheet.write_text("crop_id,type\nx,instance\n")
    with pytest.raises(UsageError, match="lacks the column corrected"):
        apply_review([sheet], dvc_project / "data")


KILLED = """
import os, signal, sys
from pathlib import Path
from supcam.data import folder
from supcam.review.labels import apply_review

folder.record_version = lambda _: os.kill(os.getpid(), signal.SIGKILL)
apply_review([Path(sys.argv[1])], Path(sys.argv[2]))
"""


def test_a_killed_review_is_finished_by_the_next(sheet: Path, dvc_project: Path) -> None:
    """Labels came in without a version: every later command found data that differ from data.dvc and refused."""
    data = dvc_project / "data"
    fill(sheet, "corrected", ["touching", "", ""])
    killed = subprocess.run([sys.executable, "-c", KILLED, str(sheet), str(data)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(UsageError, match=r"line 2.*the sheet says instance"):
        apply_review([sheet], data)
    assert read_manifest(data / "manifest.csv")["type"].iloc[0] == "touching"
    require_checked_out(data)


def test_data_that_is_a_link_or_a_mount_point_is_refused(
    sheet: Path, dvc_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a link the version was not recorded; at a mount point the rename failed with a traceback."""
    data = dvc_project / "data"
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == data)
    with pytest.raises(UsageError, match=r"data is a mount point.*Mount the folder above"):
        apply_review([sheet], data)
    monkeypatch.undo()
    data.rename(dvc_project.parent / "elsewhere")
    data.symlink_to(dvc_project.parent / "elsewhere")
    with pytest.raises(UsageError, match=r"data is a symbolic link, whose target DVC does not version"):
        apply_review([sheet], data)
    with pytest.raises(UsageError, match="symbolic link"):
        import_sources([write_source(dvc_project.parent / "more", per_type=1)], data)


def test_corrected_crops_of_test_cases_stay_in_the_test_part(tmp_path: Path, dvc_project: Path) -> None:
    """Else a model would train on the very slides that judge it."""
    data = dvc_project / "data"
    import_sources([write_source(tmp_path / "lab", cases=8, per_type=8)], data, case_pattern="(case[0-9])")
    settings = SplitSettings(validation=0.25, test=0.25)
    before, _ = split_manifest(read_manifest(data / "manifest.csv"), settings)
    test = before[before["split"] == "test"].iloc[0]
    row = {"crop_id": test["crop_id"], "path": test["path"], "type": test["type"]}
    other = "touching" if test["type"] != "touching" else "overlapping"
    sheet = write_sheet(pd.DataFrame([row]), data, tmp_path / "one", heading="Labels to review")
    fill(sheet, "corrected", [other])
    apply_review([sheet], data)

    rows = []
    for part in ("test", "validation", "train"):  # as production sends them: without crop_id, from another source
        case = before.loc[before["split"] == part, "case_id"].iloc[0]
        picture = tmp_path / f"{part}.png"
        picture.write_bytes(encode(draw_crop(900 + len(rows))))
        rows.append({"path": picture.name, "type": "instance", "case": case})
    sheet = write_sheet(pd.DataFrame(rows), tmp_path, tmp_path / "two", heading="Crops that production doubts")
    fill(sheet, "corrected", ["touching"] * 3)
    apply_review([sheet], data)

    after, _ = split_manifest(read_manifest(data / "manifest.csv"), settings, before)
    parts = after.set_index("crop_id")["split"]
    assert parts[test["crop_id"]] == "test"
    assert after.set_index("crop_id").loc[test["crop_id"], "type"] == other
    assert parts[before["crop_id"]].tolist() == before["split"].tolist()
    fresh = after[after["source"] == "review"]
    assert sorted(fresh["split"]) == ["test", "train", "validation"]
    assert all(Path(path).stem.endswith(part) for path, part in zip(fresh["path"], fresh["split"], strict=True))
