"""The crops that training and evaluation stages read."""

from pipelines.stage import Stage
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest


def part(stage: Stage, name: str) -> CropSet:
    """Real crops of one part of the split: train, validation or test."""
    frame = read_manifest(stage.read("split/manifest.csv"))
    return CropSet.load(frame[frame["split"] == name], stage.data)


def training_crops(stage: Stage) -> CropSet:
    """Real training crops followed by the composed ones."""
    manifest = stage.read("compose/manifest.csv")
    return part(stage, "train").concat(CropSet.load(read_manifest(manifest), manifest.parent))
