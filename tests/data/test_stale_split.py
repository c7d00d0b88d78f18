"""A stage that reads the split says so when the crops were replaced since."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest, write_manifest
from supcam.errors import UsageError
from supcam.stages.crops import StageCrops
from tests.support.drawing import write_source


def test_a_split_of_crops_that_were_replaced_is_named(source: Path, tmp_path: Path) -> None:
    """supcam tune right after import --replace said that a file is missing."""
    data, divided = tmp_path / "data", tmp_path / "split.csv"
    import_sources([source], data)
    write_manifest(read_manifest(data / "manifest.csv").assign(split="train"), divided)
    stage: Any = SimpleNamespace(read=lambda _: divided, data=data, name="tune")
    assert len(StageCrops(stage).manifest) == 24
    import_sources([write_source(tmp_path / "more", per_type=1, seed=3)], data)  # what was divided is still there
    assert len(StageCrops(stage).manifest) == 24
    import_sources([tmp_path / "more"], data, replace=True)
    with pytest.raises(UsageError, match=r"divides 24 crops that .* does not list.*Run: dvc repro tune"):
        _ = StageCrops(stage).manifest
