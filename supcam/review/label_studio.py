"""Sheets as tasks of Label Studio with the suggestions as pre-annotations, and its export back as a sheet.

Format: https://labelstud.io/guide/task_format and /guide/export (JSON). The project's labelling interface is
:data:`INTERFACE`; pictures travel inside the tasks, so that no storage needs to be set up.
"""

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from supcam.errors import UsageError
from supcam.files import write_text
from supcam.review.sheet import COLUMNS, DECISIONS, picture, read_sheet

INTERFACE = (
    '<View><Image name="image" value="$image" zoom="true"/>'
    '<Choices name="type" toName="image" choice="single" showInline="true">'
    + "".join(f'<Choice value="{name}" hotkey="{place}"/>' for place, name in enumerate(DECISIONS, 1))
    + "</Choices></View>\n"
)
_KEPT = tuple(name for name in COLUMNS if name not in ("corrected", "reader", "date"))


def write_tasks(sheet: Path, into: Path) -> int:
    """Write ``tasks.json`` and ``interface.xml`` of a sheet into a folder; returns the number of tasks.

    Raises:
        UsageError: for what is not a sheet.
    """
    tasks = [_task(row, sheet.resolve().parent) for row in read_sheet(sheet).to_dict("records")]
    write_text(into / "tasks.json", json.dumps(tasks, indent=1))
    write_text(into / "interface.xml", INTERFACE)
    return len(tasks)


def read_tasks(export: Path, sheet: Path) -> int:
    """Write a sheet from Label Studio's JSON export of such tasks; returns how many crops are decided.

    Of several annotations of a task the last one counts, cancelled ones do not. The reader is the annotator's e-mail or
    number.

    Raises:
        UsageError: for what is not such an export, or holds another choice than those of the interface.
    """
    try:
        tasks = json.loads(export.read_text(encoding="utf-8"))
        rows = [_row(task, f"{export} task {number}:") for number, task in enumerate(tasks, 1)]
    except OSError as error:
        raise UsageError(f"{export} cannot be read: {error.strerror}. Check the path.") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{export} is not an export of Label Studio ({type(error).__name__}: {error}). Export the project as JSON, "
            "and keep the tasks as supcam wrote them."
        ) from None
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).fillna("")
    write_text(sheet, frame.to_csv(index=False, lineterminator="\n"))
    return int((frame["corrected"] != "").sum())


def _task(row: Mapping[Hashable, Any], folder: Path) -> dict[str, Any]:
    data = {name: row[name] for name in _KEPT} | {"image": picture(folder / row["path"])}
    if not row["suggestion"]:
        return {"data": data}
    result = {"from_name": "type", "to_name": "image", "type": "choices", "value": {"choices": [row["suggestion"]]}}
    score = {"score": float(row["confidence"])} if row["confidence"] else {}
    return {"data": data, "predictions": [{"model_version": "supcam", "result": [result], **score}]}


def _row(task: Mapping[str, Any], where: str) -> dict[str, str]:
    row = {name: str(task["data"][name]) for name in _KEPT}
    done = [annotation for annotation in task.get("annotations", []) if not annotation.get("was_cancelled")]
    chosen = [result for annotation in done[-1:] for result in annotation["result"] if result["from_name"] == "type"]
    if not chosen:
        return row
    decision = chosen[-1]["value"]["choices"][0]
    if decision not in DECISIONS:
        raise UsageError(f"{where} choice {decision!r} is unknown; allowed are {', '.join(DECISIONS)}.")
    by = done[-1].get("completed_by", "")
    reader = by.get("email", by.get("id", "")) if isinstance(by, dict) else by
    return row | {"corrected": decision, "reader": str(reader), "date": str(done[-1].get("updated_at", ""))[:10]}
