"""A candidate answers beside production: the crops whose type changes are counted and shown."""

from pathlib import Path

import pandas as pd
import pytest

from supcam.errors import UsageError
from supcam.review.shadow import compare_answers, write_differences
from tests.support.drawing import write_source


def answers(paths: list[str], types: list[str], errors: list[str] | None = None) -> pd.DataFrame:
    frame = pd.DataFrame({"path": paths, "type": types, "confidence": 0.9, "needs_review": False, "reason": ""})
    return frame.assign(error=errors or [""] * len(paths))


def test_changed_types_are_counted_and_shown(tmp_path: Path) -> None:
    paths = sorted(map(str, write_source(tmp_path / "lab", per_type=2).rglob("*.png")))[:5]
    errors = ["", "", "", "", "damaged"]
    present = answers(paths, ["instance", "instance", "touching", "", ""], errors)
    new = answers(paths, ["instance", "touching", "touching", "overlapping", ""], errors).assign(needs_review=True)
    found = compare_answers(present, new)
    assert (found.crops, len(found.differing), found.review) == (4, 2, (0, 4))
    assert found.table.loc["instance", "touching"] == found.table.loc["no type", "overlapping"] == 1
    assert found.table.to_numpy().sum() == 4
    assert found.share is not None
    assert found.share.low < 0.5 < found.share.high
    assert found.lines()[0].startswith("2 of 4 answers differ: 50.0%")
    page = write_differences(found, tmp_path / "out")
    assert page.read_text().count("data:image/png;base64,") == 2
    rows = pd.read_csv(page.with_suffix(".csv"))
    assert list(zip(rows["type"], rows["suggestion"], strict=True)) == [
        ("instance", "touching"),
        ("no type", "overlapping"),
    ]


def test_other_crops_are_refused() -> None:
    with pytest.raises(UsageError, match="not about the same crops"):
        compare_answers(answers(["a"], ["instance"]), answers(["b"], ["instance"]))


def test_no_crop_at_all_is_no_division(tmp_path: Path) -> None:
    found = compare_answers(answers(["a"], [""], ["damaged"]), answers(["a"], [""], ["damaged"]))
    assert found.lines()[0] == "0 of 0 answers differ: 0.0%"
    assert write_differences(found, tmp_path / "out").is_file()
