"""The in-memory crop set."""

from pathlib import Path

import numpy as np
import pytest

from supcam.data.crops import CropSet
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.errors import UsageError


@pytest.fixture
def crops(source: Path, tmp_path: Path) -> CropSet:
    import_sources([source], tmp_path / "data", case_pattern="(case[0-9])")
    return CropSet.load(read_manifest(tmp_path / "data" / "manifest.csv"), tmp_path / "data")


def test_labels_groups_and_canvas(crops: CropSet) -> None:
    assert len(crops) == 24
    assert np.bincount(crops.labels).tolist() == [6, 6, 6, 6]
    assert set(crops.groups) == {f"lab one/case{index}" for index in range(3)}
    assert crops.canvas(32).shape == (24, 1, 32, 32)
    assert crops.canvas(64, "native").dtype == np.uint8
    assert [image.shape for image in crops.images] == list(
        zip(crops.frame["height"], crops.frame["width"], strict=True)
    )


def test_subset_and_concat(crops: CropSet) -> None:
    touching = crops.subset((crops.frame["type"] == "touching").to_numpy())
    assert set(touching.labels) == {1}
    assert crops.subset([3, 1]).frame["crop_id"].to_list() == crops.frame["crop_id"].iloc[[3, 1]].to_list()
    composed = CropSet(touching.frame.assign(relation="touch"), touching.images)
    both = crops.concat(composed)
    assert len(both) == 30
    assert both.frame["relation"].to_list() == [""] * 24 + ["touch"] * 6
    assert both.frame["label_certain"].dtype == bool
    assert len(crops.subset([])) == 0


def test_wrong_type_mask_and_length(crops: CropSet) -> None:
    with pytest.raises(UsageError, match="'cluster' is unknown"):
        _ = CropSet(crops.frame.assign(type="cluster"), crops.images).labels
    with pytest.raises(ValueError, match="3 entries for 24 crops"):
        crops.subset([True, False, True])
    with pytest.raises(ValueError, match="24 rows but 1 images"):
        CropSet(crops.frame, crops.images[:1])
