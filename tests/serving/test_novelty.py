"""Crops unlike the training crops: what the score sees, what it does not, and when a folder's answers are doubted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from supcam.evaluation.novelty import fit_novelty
from supcam.serving.novelty import STATISTICS, Novelty, statistics_of
from tests.support.drawing import draw_crop

TRAINING = [draw_crop(seed) for seed in range(60)]
VALIDATION = [draw_crop(seed) for seed in range(60, 120)]


@pytest.fixture(scope="module")
def novelty() -> Novelty:
    found = fit_novelty(TRAINING, VALIDATION, 0.05)
    assert found is not None
    return found


def stacked(crops: list[np.ndarray]) -> np.ndarray:
    return np.stack([statistics_of(crop) for crop in crops])


def test_white_around_a_crop_and_turns_change_no_statistic() -> None:
    crop = draw_crop(3)
    expected = statistics_of(crop)
    assert expected.shape == (len(STATISTICS),) and np.isfinite(expected).all()
    for other in (np.pad(crop, 9, constant_values=255), np.rot90(crop), np.fliplr(crop)):
        np.testing.assert_allclose(statistics_of(np.ascontiguousarray(other)), expected, rtol=1e-6)


@pytest.mark.parametrize("picture", [np.full((9, 9), 255), np.zeros((1, 1)), np.full((3, 1), 7)])
def test_pictures_of_any_content_have_statistics_or_none(picture: np.ndarray) -> None:
    found = statistics_of(picture.astype(np.uint8))
    assert np.isnan(found).all() or np.isfinite(found).all()


def test_a_blank_picture_is_not_called_unlike(novelty: Novelty) -> None:
    assert not novelty.unlike(stacked([np.full((9, 9), 255, dtype=np.uint8)])).any()


def test_another_stain_sharpness_and_size_are_unlike_and_the_same_drawing_is_not(novelty: Novelty) -> None:
    fresh = [draw_crop(seed) for seed in range(200, 240)]
    pale = [np.asarray(255 - (255 - crop.astype(int)) // 3, dtype=np.uint8) for crop in fresh]
    soft = [np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(3))) for crop in fresh]
    large = [np.kron(crop, np.ones((4, 4), dtype=np.uint8)) for crop in fresh]
    assert novelty.unlike(stacked(fresh)).mean() <= 0.15
    for other in (pale, soft, large):
        assert novelty.unlike(stacked(other)).mean() >= 0.9


def test_the_threshold_leaves_the_stated_share_of_validation_crops(novelty: Novelty) -> None:
    assert novelty.unlike(stacked(VALIDATION)).sum() == 60 - np.ceil(61 * 0.95)


def test_too_few_validation_crops_for_the_share_get_the_largest_distance() -> None:
    found = fit_novelty(TRAINING, VALIDATION[:10], 0.01)
    assert found is not None and not found.unlike(stacked(VALIDATION[:10])).any()
    assert found.threshold == pytest.approx(found.distances(stacked(VALIDATION[:10])).max())


def test_cases_that_differ_raise_the_threshold() -> None:
    """Three slides of validation were too alike: 5 % of the crops of three others were called unlike."""
    shades = [
        np.asarray(255 - (255 - draw_crop(seed).astype(int)) * (50 + seed) // 110, np.uint8) for seed in range(60)
    ]
    cases = [f"case{seed // 10}" for seed in range(60)]
    apart, together = fit_novelty(shades, shades[:1], 0.01, cases), fit_novelty(shades, shades[:1], 0.01)
    one_case = fit_novelty(shades, shades[:1], 0.01, ["case"] * 60)
    assert apart is not None and together is not None and one_case is not None
    assert apart.threshold > 2 * together.threshold and one_case.threshold == together.threshold
    points = (stacked(shades) - apart.mean) @ apart.whitening
    squared = ((points[:, np.newaxis] - points) ** 2).sum(axis=2)
    expected = [
        sorted(value for value, case in zip(row, cases, strict=True) if case != own)[4]
        for row, own in zip(squared, cases, strict=True)
    ]
    assert apart.threshold == pytest.approx(max(expected), rel=1e-4)


def test_without_validation_or_training_crops_there_is_no_score() -> None:
    assert fit_novelty(TRAINING, [], 0.01) is None
    assert fit_novelty(TRAINING[:4], VALIDATION, 0.01) is None


def test_what_is_kept_is_small_the_same_bytes_and_without_pickle(novelty: Novelty, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        novelty.write(tmp_path / name)
    one, two = ((tmp_path / name / "novelty.npz").read_bytes() for name in ("one", "two"))
    assert one == two and len(one) < 300_000 and b"pickle" not in one
    read = Novelty.read(tmp_path / "one")
    assert read is not None
    points = stacked(VALIDATION)
    np.testing.assert_array_equal(read.distances(points), novelty.distances(points))
    assert Novelty.read(tmp_path) is None


def test_distances_are_those_of_a_loop_over_neighbours(novelty: Novelty) -> None:
    points = (stacked(VALIDATION[:5]) - novelty.mean) @ novelty.whitening
    expected = [sorted(float(((point - row) ** 2).sum()) for row in novelty.bank.astype(float))[4] for point in points]
    np.testing.assert_allclose(novelty.distances(stacked(VALIDATION[:5])), expected, rtol=1e-6)
