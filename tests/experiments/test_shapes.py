"""Shape features know area, holes, parts and branches of drawn shapes; the forest distinguishes bars from crossings."""

import numpy as np
import pytest

from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.experiments.shapes import FEATURES, run_forest, shape_features
from tests.experiments.conftest import quick


def canvas() -> np.ndarray:
    return np.full((60, 60), 255, dtype=np.uint8)


def bar() -> np.ndarray:
    image = canvas()
    image[10:50, 25:33] = 80
    return image


def cross() -> np.ndarray:
    image = bar()
    image[26:34, 8:52] = 60
    return image


def pair() -> np.ndarray:
    """Two bars apart, joined by a grey halo only."""
    image = canvas()
    image[10:50, 30] = 240
    image[10:50, 22:30] = image[10:50, 31:39] = 80
    return image


def ring() -> np.ndarray:
    image = canvas()
    image[10:50, 10:50] = 80
    image[22:38, 22:38] = 255
    return image


def of(image: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, shape_features([image])[0].tolist(), strict=True))


def test_a_bar() -> None:
    found = of(bar())
    assert found["halo_area"] == 40 * 8
    assert found["halo_solidity"] == pytest.approx(1.0)
    assert found["halo_euler_number"] == 1
    assert (found["skeleton_ends"], found["skeleton_branches"]) == (2, 0)
    assert found["core_parts"] == 1 and found["largest_part_share"] == 1


def test_a_cross_branches_and_is_not_solid() -> None:
    found = of(cross())
    assert found["skeleton_ends"] == 4 and found["skeleton_branches"] >= 1
    assert found["halo_solidity"] < 0.6 < of(bar())["halo_solidity"]


def test_touching_cores_are_apart() -> None:
    found = of(pair())
    assert found["core_parts"] == 2 and found["largest_part_share"] == pytest.approx(0.5)


def test_a_ring_has_a_hole() -> None:
    assert of(ring())["halo_euler_number"] == 0


def test_nothing_in_a_crop_gives_zeros() -> None:
    assert not shape_features([canvas()]).any()
    assert shape_features([]).shape == (0, len(FEATURES))
    assert np.isfinite(shape_features([bar(), cross(), pair(), ring(), canvas()])).all()


def test_the_forest_recognises_what_the_shapes_show(crops: CropSet) -> None:
    train, held_out = (crops.subset(np.arange(len(crops)) % 2 == part) for part in (0, 1))
    outcome = run_forest(train, held_out, quick())
    assert outcome.logits.shape == (48, 4) and np.isfinite(outcome.logits).all()
    assert np.exp(outcome.logits).sum(axis=1) == pytest.approx(1.0)
    assert (outcome.logits.argmax(axis=1) == held_out.labels).mean() > 0.9
    again = run_forest(train, held_out, quick())
    assert np.array_equal(outcome.logits, again.logits)


def test_a_type_without_training_crops_gets_no_share_of_its_own(crops: CropSet) -> None:
    train = crops.subset((crops.frame["type"] != "overlapping").to_numpy())
    outcome = run_forest(train, crops, quick())
    assert (outcome.logits.argmax(axis=1) != 2).all()
    single = crops.subset(np.flatnonzero(crops.labels == 2)[:1])
    with pytest.raises(UsageError, match="type overlapping has 1 training crop"):
        run_forest(train.concat(single), crops, quick())
