"""Stage split: divide the crops into train, validation and test."""

from pipelines.stage import Stage, main
from supcam.data.manifest import read_manifest
from supcam.data.splits import read_assignments, split_manifest, write_split


def split(stage: Stage) -> str:
    """Assign new cases, keep the part of every case that has one, and write the manifest with its split."""
    frame = read_manifest(stage.data / "manifest.csv")
    previous = read_assignments(stage.place.find("split/assignments.csv"))
    divided, report = split_manifest(frame, stage.settings.split, previous)
    write_split(divided, report, stage.out)
    return report.summary


if __name__ == "__main__":
    main("split", split)
