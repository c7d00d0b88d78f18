"""The manifest: read as written, the same bytes for the same rows, wrong files named."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from supcam.data.manifest import COLUMNS, manifest_hash, read_manifest, write_manifest
from supcam.errors import UsageError

Make = Callable[..., pd.DataFrame]


def test_round_trip_keeps_types_and_further_columns(manifest: Make, tmp_path: Path) -> None:
    frame = manifest({"": {"instance": 2}, "a": {"touching": 2}}).assign(cell="x, y")
    frame.loc[0, "label_certain"] = False
    path = tmp_path / "new folder" / "manifest.csv"
    write_manifest(frame, path)
    again = read_manifest(path)
    pd.testing.assert_frame_equal(again, frame.sort_values("crop_id").reset_index(drop=True), check_dtype=False)
    assert again["label_certain"].dtype == bool
    assert again["width"].dtype == "int64"
    assert (again["case_id"] == "").sum() == 2
    assert [file.name for file in path.parent.iterdir()] == ["manifest.csv"]


def test_bytes_and_hash_do_not_depend_on_the_order(manifest: Make, tmp_path: Path) -> None:
    frame = manifest({"a": {"instance": 20, "touching": 3}})
    shuffled = frame.sample(frac=1, random_state=1)
    write_manifest(frame, tmp_path / "one.csv")
    write_manifest(shuffled, tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert manifest_hash(frame) == manifest_hash(shuffled)


@pytest.mark.parametrize("column", ["crop_id", "type", "case_id", "sha256", "label_certain"])
def test_hash_changes_with_the_content(manifest: Make, column: str) -> None:
    frame = manifest({"a": {"instance": 3}})
    changed = frame.copy()
    changed.loc[1, column] = False if column == "label_certain" else "other"
    assert manifest_hash(frame) != manifest_hash(changed)


def test_missing_file_and_column_are_named(manifest: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dvc pull data\.dvc"):
        read_manifest(tmp_path / "manifest.csv")
    path = tmp_path / "manifest.csv"
    manifest({"a": {"instance": 1}}).drop(columns=["sha256"]).to_csv(path, index=False)
    with pytest.raises(UsageError, match="lacks the column sha256"):
        read_manifest(path)


@pytest.mark.parametrize(("column", "value"), [("width", "wide"), ("height", "-3"), ("label_certain", "perhaps")])
def test_value_of_the_wrong_kind_names_its_line(manifest: Make, tmp_path: Path, column: str, value: str) -> None:
    frame = manifest({"a": {"instance": 3}}).astype(str)
    frame["label_certain"] = "yes"
    frame.loc[1, column] = value
    frame[list(COLUMNS)].to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(UsageError, match=rf"line 3.*{column}.*{value}"):
        read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:2], "", *lines[2:]], "line 3 has 0 values"),
        (lambda lines: [lines[0], *(f"{line},x" for line in lines[1:])], "line 2 has 10 values for 9 columns"),
        (lambda lines: [f"{line},instance" if at else f"{line},type" for at, line in enumerate(lines)], "named type"),
    ],
    ids=["blank line", "one value too many", "doubled column"],
)
def test_table_broken_by_hand_names_its_line(
    manifest: Make, tmp_path: Path, edit: Callable[[list[str]], list[str]], message: str
) -> None:
    """Such edits shifted lines or columns without a word."""
    path = tmp_path / "manifest.csv"
    write_manifest(manifest({"a": {"instance": 3}}), path)
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
    with pytest.raises(UsageError, match=rf"{message}.*Go back: git checkout"):
        read_manifest(path)
