"""The crops that training and evaluation stages read."""

from functools import cached_property

import pandas as pd

from supcam.data.crops import CropSet
from supcam.data.manifest import MANIFEST, read_manifest
from supcam.errors import UsageError
from supcam.stages.stage import Stage
from supcam.stages.workspace import OUTPUTS

SPLIT = "split/manifest.csv"
CONTEXTS = {"train": "training", "validation": "validation", "test": "test"}


class StageCrops:
    """Crops of a stage, named in its run as they are read; the manifest is read once."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """Every real crop with its column ``split``.

        Raises:
            UsageError: when crops that it divides were removed or replaced since.
        """
        path = self._stage.read(SPLIT)
        divided, present = read_manifest(path), self._stage.data / MANIFEST
        if present.is_file():
            held = dict(read_manifest(present)[["crop_id", "sha256"]].to_numpy().tolist())
            gone = divided.loc[divided["crop_id"].map(held) != divided["sha256"], "crop_id"]
            if len(gone):
                raise UsageError(
                    f"{path} divides {len(gone)} crops that {present} does not list, first {gone.iloc[0]!r}: the split "
                    f"is older than the data. Run: dvc repro {self._stage.name}"
                )
        return divided

    def part(self, name: str) -> CropSet:
        """Real crops of one part of the split: train, validation or test."""
        stage, chosen = self._stage, self.manifest[self.manifest["split"] == name]
        # The manifest of the split holds the hash of every crop: its own hash stands for data and split at once.
        stage.log_crops(f"crops, {name}", chosen, CONTEXTS[name], dep=f"{OUTPUTS}/{SPLIT}", source=stage.data)
        return CropSet.load(chosen, stage.data)

    def training(self) -> CropSet:
        """Real training crops followed by the composed ones."""
        path = self._stage.read("compose/manifest.csv")
        composed = read_manifest(path)
        self._stage.log_crops("crops, composed", composed, "training", dep=f"{OUTPUTS}/compose", source=path.parent)
        return self.part("train").concat(CropSet.load(composed, path.parent))
