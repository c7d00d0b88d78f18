"""Stage validate: the data gate. Nothing that breaks an expectation of severity stop gets past it."""

from supcam.data.expectations import validate_crops
from supcam.data.manifest import read_manifest
from supcam.data.reports import require_passed
from supcam.progress import progress_bar
from supcam.stages.command import main
from supcam.stages.stage import Stage


def validate(stage: Stage) -> str:
    """Check the raw crops and write validation.json."""
    frame = read_manifest(stage.data / "manifest.csv")
    stage.log_crops("crops", frame, "raw", dep="data", source=stage.data)
    with progress_bar("crops") as progress:
        report = validate_crops(frame, stage.data, stage.settings.validate_, progress=progress)
    return require_passed(report, stage.out / "validation.json", stage.data, stage.report)


if __name__ == "__main__":
    main("validate", validate)
