"""Stage validate_composed: the data gate for composed crops."""

import json

from supcam.data.expectations import validate_composed as check
from supcam.data.manifest import read_manifest
from supcam.data.reports import require_passed
from supcam.stages.command import main
from supcam.stages.stage import Stage


def validate_composed(stage: Stage) -> str:
    """Check the composed crops against their parents and the label algebra."""
    manifest = stage.read("compose/manifest.csv")
    composed = read_manifest(manifest)
    stage.log_crops("crops, composed", composed, "training", dep="outputs/compose", source=manifest.parent)
    sources = read_manifest(stage.read("split/manifest.csv"))
    report = check(
        composed,
        sources[sources["split"] == "train"],
        manifest.parent,
        stage.settings.validate_composed,
        requested=json.loads(stage.read("compose/report.json").read_text(encoding="utf-8"))["requested"],
        sources_root=stage.data,
    )
    return require_passed(report, stage.out / "validation.json", manifest.parent, stage.report)


if __name__ == "__main__":
    main("validate_composed", validate_composed)
