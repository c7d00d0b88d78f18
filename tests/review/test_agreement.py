"""Two readers: kappa as it is defined, and the crops on which they differ."""

from pathlib import Path

import pandas as pd
import pytest

from supcam.errors import UsageError
from supcam.review.agreement import compare_readers
from supcam.review.labels import apply_review


def sheet(path: Path, decisions: list[str]) -> Path:
    names = [f"lab/{number}.png" for number in range(len(decisions))]
    pd.DataFrame({"crop_id": names, "path": names, "type": "instance", "corrected": decisions}).to_csv(
        path, index=False
    )
    return path


def test_kappa_of_a_table_worked_by_hand(tmp_path: Path) -> None:
    # 20 both instance, 5 and 10 differ, 15 both touching: observed 0.7, by chance 0.5 (Cohen's own example of method).
    first = ["instance"] * 25 + ["touching"] * 25 + [""]
    second = ["instance"] * 20 + ["touching"] * 5 + ["instance"] * 10 + ["touching"] * 15 + ["overlapping"]
    found = compare_readers(sheet(tmp_path / "a.csv", first), sheet(tmp_path / "b.csv", second))
    assert (found.both, found.same) == (50, pytest.approx(0.7))
    assert found.kappa == pytest.approx(0.4)
    assert found.kappa_low < 0.4 < found.kappa_high
    assert list(found.differing["crop_id"]) == [f"lab/{number}.png" for number in range(20, 35)]
    assert list(found.differing["suggestion"]) == ["instance"] * 5 + ["touching"] * 10


def test_agreement_without_variety_is_not_a_number(tmp_path: Path) -> None:
    found = compare_readers(sheet(tmp_path / "a.csv", ["touching"] * 4), sheet(tmp_path / "b.csv", ["touching"] * 4))
    assert "kappa not defined" in found.lines()[0]
    assert found.differing.empty


def test_sheets_of_other_crops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="have no crop that both decided"):
        compare_readers(sheet(tmp_path / "a.csv", ["touching", ""]), sheet(tmp_path / "b.csv", ["", "touching"]))


def test_a_file_with_unknown_types_or_without_its_columns_is_refused(tmp_path: Path) -> None:
    known = sheet(tmp_path / "a.csv", ["touching", "unsure"])
    with pytest.raises(UsageError, match=r"b.csv line 3: .*'crossing' is unknown.*Allowed as well: unsure"):
        compare_readers(known, sheet(tmp_path / "b.csv", ["touching", "crossing"]))
    (tmp_path / "c.csv").write_text("crop_id,type\nlab/0.png,instance\n")
    with pytest.raises(UsageError, match="lacks the column corrected"):
        compare_readers(known, tmp_path / "c.csv")


def test_readers_who_differ_are_not_applied(tmp_path: Path) -> None:
    one, other = (
        sheet(tmp_path / "a.csv", ["touching", "unsure"]),
        sheet(tmp_path / "b.csv", ["touching", "overlapping"]),
    )
    with pytest.raises(UsageError, match=r"b.csv line 3: lab/1.png is overlapping, but .*a.csv line 3 says unsure"):
        apply_review([one, other], tmp_path / "data")
