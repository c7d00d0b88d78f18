"""Real against composed: the test must see a planted artefact, and must not see a difference that is not there."""

from pathlib import Path

import numpy as np
import pytest

from supcam.cluster_type import ClusterType
from supcam.composition.sources import SourceCrops
from supcam.settings import ComposeSettings
from tests.composition.realism import features, hard_cut, real_crops, realism


def test_features_are_finite_even_for_a_speck() -> None:
    image = np.full((5, 5), 255, dtype=np.uint8)
    image[2, 2] = 10
    assert np.isfinite(features(image)).all()


def test_hard_cut_takes_the_rim_and_only_the_rim(crops: SourceCrops) -> None:
    image = crops.images[0]
    cut = hard_cut(image)
    assert np.count_nonzero(cut < 250) < np.count_nonzero(image < 250)
    kept = cut < 255
    assert (cut[kept] == image[kept]).all()


@pytest.mark.stress
@pytest.mark.parametrize("kind", [ClusterType.TOUCHING, ClusterType.OVERLAPPING], ids=lambda kind: str(kind.label))
@pytest.mark.parametrize("name", ["clinical-12-cases", "mfish-slides"])
def test_real_and_composed_crops_are_hardly_separable(shared_data: Path, name: str, kind: ClusterType) -> None:
    crops = real_crops(shared_data / name)
    control = realism(crops, kind, ComposeSettings(), per_real=1, control=True, bootstrap=50)
    assert control.auc >= 0.95, "a classifier that misses hard-cut edges proves nothing"
    assert realism(crops, kind, ComposeSettings(), per_real=1, bootstrap=50).auc <= 0.8


@pytest.mark.parametrize("control", [False, True])
def test_clinical_touching_crops(shared_data: Path, control: bool) -> None:
    crops = real_crops(shared_data / "clinical-12-cases")
    result = realism(crops, ClusterType.TOUCHING, ComposeSettings(), per_real=1, control=control, bootstrap=50)
    assert result.low <= result.auc <= result.high
    assert result.auc >= 0.95 if control else result.auc <= 0.8
