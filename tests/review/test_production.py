"""What production doubts comes back as training data, once a person has decided."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supcam.data.importers import ImportRefused, import_sources
from supcam.data.manifest import read_manifest
from supcam.errors import UsageError
from supcam.review.labels import apply_review
from supcam.review.production import doubtful_sheet, review_of_routed
from tests.support.drawing import write_source


@pytest.fixture
def doubted(tmp_path: Path) -> Path:
    """A review folder of five crops that production doubted, two of them of one name."""
    lab = write_source(tmp_path / "new", per_type=3)
    paths = sorted(lab.rglob("*.png"))[:7]
    twin = paths[0].with_name(paths[1].name).parent / "again" / paths[1].name
    twin.parent.mkdir()
    shutil.copy(paths[2], twin)
    answers = pd.DataFrame({"path": [*map(str, paths[:6]), str(twin)], "type": "touching", "confidence": 0.6})
    answers["needs_review"] = [True] * 4 + [False, True, True]
    answers["reason"], answers["error"], answers["case"] = "low confidence", [""] * 5 + ["damaged", ""], "case9"
    assert doubtful_sheet(answers, tmp_path / "review") == 5
    return tmp_path / "review"


def decide(folder: Path, corrected: list[str]) -> Path:
    sheet = folder / "review.csv"
    rows = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    rows.assign(corrected=corrected, reader="AB", date="2026-11-28").to_csv(sheet, index=False)
    return sheet


def test_decided_crops_become_a_new_version(doubted: Path, dvc_project: Path, tmp_path: Path) -> None:
    data = dvc_project / "data"
    import_sources([write_source(tmp_path / "lab", per_type=2)], data)
    before = read_manifest(data / "manifest.csv")
    moved = Path(shutil.move(doubted, tmp_path / "carried elsewhere"))
    sheet = decide(moved, ["overlapping", "touching", "unsure", "not a cluster", ""])
    report = apply_review([sheet], data)
    after = read_manifest(data / "manifest.csv")
    fresh = after[~after["crop_id"].isin(before["crop_id"])]
    assert report.outcomes == {"new crops": 2, "left out as unsure": 1, "left out as not a cluster": 1}
    assert report.changed == {"touching -> overlapping": 1}
    assert report.versioned
    assert sorted(fresh["type"]) == ["overlapping", "touching"]
    assert set(fresh["case_id"]) == {"case9"}
    assert set(fresh["reader"]) == {"AB"}
    assert set(fresh["reviewed"]) == {"2026-11-28"}
    assert fresh["label_certain"].all()
    again = apply_review([sheet], data)
    assert again.outcomes["already there"] == 2
    with pytest.raises(ImportRefused, match="another type"):
        apply_review([decide(moved, ["instance", "touching", "", "", ""])], data)


def test_a_sheet_that_cannot_be_taken_changes_nothing(doubted: Path, dvc_project: Path, tmp_path: Path) -> None:
    data = dvc_project / "data"
    import_sources([write_source(tmp_path / "lab", per_type=2)], data)
    before = (data / "manifest.csv").read_bytes()
    sheet = decide(doubted, ["overlapping"] * 5)
    first = pd.read_csv(sheet)["path"].iloc[0]
    (doubted / first).unlink()
    with pytest.raises(UsageError, match=r"line 2: .*cannot be read.*Keep the crops beside the sheet"):
        apply_review([sheet], data)
    (doubted / first).write_bytes(b"no picture")
    with pytest.raises(ImportRefused):
        apply_review([sheet], data)
    rows = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    rows.assign(source="../elsewhere").to_csv(sheet, index=False)
    with pytest.raises(UsageError, match="not the name of a folder"):
        apply_review([sheet], data)
    rows.loc[0, "crop_id"] = "lab/x"
    rows.to_csv(sheet, index=False)
    with pytest.raises(UsageError, match="are mixed"):
        apply_review([sheet], data)
    assert (data / "manifest.csv").read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()


def test_the_folder_of_a_review_must_be_new(doubted: Path) -> None:
    answers = pd.DataFrame({name: [] for name in ("path", "type", "confidence", "needs_review", "reason", "error")})
    with pytest.raises(UsageError, match="exists and is not empty"):
        doubtful_sheet(answers, doubted)
    assert np.all(pd.read_csv(doubted / "review.csv")["type"] == "touching")


def test_routed_crops_have_their_sheet_beside_them(tmp_path: Path) -> None:
    lab = write_source(tmp_path / "sorted" / "review", per_type=1)
    paths = sorted(path.relative_to(tmp_path / "sorted").as_posix() for path in lab.rglob("*.png"))
    answers = pd.DataFrame({"path": paths, "routed_to": [*paths[:2], "instance/a.png", ""], "confidence": 0.5})
    answers["type"], answers["reason"], answers["error"] = "touching", "low confidence", ["", "damaged", "", ""]
    review_of_routed(answers, tmp_path / "sorted")
    rows = pd.read_csv(lab / "review.csv")
    assert list(rows["path"]) == [paths[0].removeprefix("review/")]
    assert (lab / "review.html").read_text().count("data:image/png;base64,") == 1
