"""A sheet goes to Label Studio as tasks with pre-annotations and comes back as decisions."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from supcam.errors import UsageError
from supcam.review.label_studio import read_tasks, write_tasks
from supcam.review.sheet import DECISIONS, read_sheet, write_sheet
from tests.support.drawing import write_source


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    lab = write_source(tmp_path / "lab", per_type=1)
    paths = sorted(str(path.relative_to(lab)) for path in lab.rglob("*.png"))
    rows = pd.DataFrame(
        {"path": paths, "type": "touching", "suggestion": "touching", "confidence": "0.750", "case": "c 1"}
    )
    return write_sheet(rows, lab, tmp_path / "review", heading="to label")


def annotated(folder: Path, decisions: list[str]) -> list[dict[str, Any]]:
    """The tasks as Label Studio 1.x exports them (JSON), once somebody has worked on them."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, (task, decision) in enumerate(zip(tasks, decisions, strict=True), 1):
        prediction = task["predictions"][0]["result"][0]
        result = {**prediction, "id": f"r{number}", "origin": "manual", "value": {"choices": [decision]}}
        task |= {"id": number, "annotations": [], "file_upload": "tasks.json", "drafts": [], "project": 1}
        if decision:
            old = {"id": 1, "completed_by": 3, "result": [prediction], "was_cancelled": True}
            new = {"id": 2, "completed_by": {"id": 4, "email": "ab@lab.example"}, "result": [result]}
            task["annotations"] = [old, new | {"was_cancelled": False, "updated_at": "2026-11-28T10:11:12.131415Z"}]
    return tasks


def test_the_round_trip_keeps_crops_and_brings_decisions(sheet: Path, tmp_path: Path) -> None:
    assert write_tasks(sheet, tmp_path / "out") == 4
    task = json.loads((tmp_path / "out" / "tasks.json").read_text())[0]
    assert task["predictions"][0]["score"] == 0.75
    assert task["data"]["image"].startswith("data:image/png;base64,")
    interface = (tmp_path / "out" / "interface.xml").read_text()
    assert all(f'value="{decision}"' in interface for decision in DECISIONS)
    decisions = ["overlapping", "", "unsure", "not a cluster"]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(annotated(tmp_path / "out", decisions)))
    back = sheet.with_name("back.csv")
    assert read_tasks(export, back) == 3
    before, after = read_sheet(sheet), read_sheet(back)
    assert list(after["corrected"]) == decisions
    assert list(after["reader"]) == ["ab@lab.example", "", "ab@lab.example", "ab@lab.example"]
    assert after["date"].iloc[0] == "2026-11-28"
    kept = ["path", "type", "suggestion", "confidence", "case"]
    pd.testing.assert_frame_equal(before[kept], after[kept])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not an export of Label Studio"),
        ('{"a": 1}', "is not an export of Label Studio"),
        ('[{"data": {"image": "x"}}]', "keep the tasks as supcam wrote them"),
        ("[" * 100_000, "is not an export of Label Studio"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    export = tmp_path / "export.json"
    export.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_tasks(export, tmp_path / "back.csv")
    assert not (tmp_path / "back.csv").exists()


def test_an_unknown_choice_is_named(sheet: Path, tmp_path: Path) -> None:
    write_tasks(sheet, tmp_path)
    export = tmp_path / "export.json"
    export.write_text(json.dumps(annotated(tmp_path, ["", "crossing", "", ""])))
    with pytest.raises(UsageError, match="task 2: choice 'crossing' is unknown"):
        read_tasks(export, tmp_path / "back.csv")
