"""Stage split: divide the crops into train, validation and test."""

import json

from supcam.data.expectations import validate_splits
from supcam.data.manifest import read_manifest
from supcam.data.reports import require_passed
from supcam.data.split_report import read_assignments, read_history, write_split
from supcam.data.splits import split_manifest
from supcam.stages.command import main
from supcam.stages.stage import Stage


def split(stage: Stage) -> str:
    """Assign new cases, keep the part of every case that has one, and write the manifest with its split."""
    frame = read_manifest(stage.data / "manifest.csv")
    stage.log_crops("crops", frame, "raw", dep="data", source=stage.data)
    validation = json.loads(stage.read("validate/validation.json").read_text(encoding="utf-8"))
    # An experiment that asks for another split divides from scratch; dvc repro does so only after: supcam data resplit.
    asked = any(name.startswith("split.") for name in stage.workspace.overrides)
    previous = None if asked else read_assignments(stage.workspace.find("split/assignments.csv"))
    history = read_history(stage.workspace.find("split/history.json"))
    divided, report = split_manifest(
        frame, stage.settings.split, previous, linked=validation["linked"], history=history
    )
    checked = validate_splits(
        divided,
        stage.settings.validate_,
        by_case=stage.settings.split.protocol == "by_case",
        together=stage.settings.split.same_case == "together",
        linked=validation["linked"],
    )
    passed = require_passed(checked, stage.out / "validation.json", stage.data, stage.report)
    write_split(divided, report, stage.out)
    stage.run.log({"groups_kept": report.kept, "groups_assigned": report.assigned})
    return f"{report.summary}\n{passed}"


if __name__ == "__main__":
    main("split", split)
