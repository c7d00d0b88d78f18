"""The crops that training and evaluation stages read."""

from pipelines.stage import OUTPUTS, Stage
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest

SPLIT = "split/manifest.csv"
CONTEXTS = {"train": "training", "validation": "validation", "test": "test"}


def part(stage: Stage, name: str) -> CropSet:
    """Real crops of one part of the split: train, validation or test."""
    frame = read_manifest(stage.read(SPLIT))
    chosen = frame[frame["split"] == name]
    # The manifest of the split holds the hash of every crop: its own hash stands for data and split at once.
    stage.log_crops(f"crops, {name}", chosen, CONTEXTS[name], dep=f"{OUTPUTS}/{SPLIT}", source=stage.data)
    return CropSet.load(chosen, stage.data)


def training_crops(stage: Stage) -> CropSet:
    """Real training crops followed by the composed ones."""
    manifest = stage.read("compose/manifest.csv")
    composed = read_manifest(manifest)
    stage.log_crops("crops, composed", composed, "training", dep=f"{OUTPUTS}/compose", source=manifest.parent)
    return part(stage, "train").concat(CropSet.load(composed, manifest.parent))
