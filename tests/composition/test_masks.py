"""Masks and quality gates, on drawn crops and on bad input."""

import numpy as np
import pytest
from scipy import ndimage

from supcam.composition.masks import EIGHT, core_mask, core_width, find_body, source_defect
from supcam.composition.sources import SourceCrops
from supcam.serving.bodies import dilated
from supcam.settings import ComposeSettings
from supcam.synthetic.chromosome import Drawing

LIMITS = ComposeSettings()


def bar(height: int = 30, width: int = 60, grey: int = 100) -> np.ndarray:
    image = np.full((height, width), 255, dtype=np.uint8)
    image[8:20, 8:52] = 235
    image[10:18, 10:50] = grey
    return image


def framed(width: int) -> np.ndarray:
    """A bar in a dark frame of uneven grey, which holds more pixels than the bar."""
    frame = np.random.default_rng(0).integers(30, 200, (30, 60), dtype=np.uint8)
    frame[width:-width, width:-width] = bar()[width:-width, width:-width]
    return frame


def speck() -> np.ndarray:
    image = np.full((20, 20), 255, dtype=np.uint8)
    image[9, 9] = 30
    return image


BAD = {
    "empty": [np.full((20, 20), 255, np.uint8), np.zeros((0, 0), np.uint8), np.full((1, 1), 255, np.uint8)],
    "speck": [speck()],
    "larger-than-canvas": [np.pad(bar(), ((0, 500), (0, 0)), constant_values=255)],
    "background": [
        np.full((30, 30), 240, np.uint8),
        np.where(bar() == 255, 244, bar()),
        np.zeros((9, 9), np.uint8),
        framed(4),  # regression: the frame was composed as if it were the chromosome
    ],
    "pale": [bar(grey=232)],
}


@pytest.mark.parametrize(("reason", "image"), [(reason, image) for reason, images in BAD.items() for image in images])
def test_bad_sources_are_refused_by_reason(reason: str, image: np.ndarray) -> None:
    assert source_defect(image, LIMITS) == reason


def test_drawn_chromosomes_pass_every_gate(crops: SourceCrops) -> None:
    assert [source_defect(image, LIMITS) for image in crops.images] == [None] * len(crops.images)


def test_chromosomes_cut_tight_are_not_frames(crops: SourceCrops) -> None:
    for image in crops.images:
        halo = image < 250
        assert source_defect(image[np.ix_(halo.any(axis=1), halo.any(axis=0))], LIMITS) is None


def test_body_keeps_the_largest_component_and_whitens_the_rest() -> None:
    image = bar()
    image[1:4, 1:4] = 90
    body = find_body(image, LIMITS)
    assert body is not None
    assert ndimage.label(body.image < 250, EIGHT)[1] == 1
    assert body.halo_area == 12 * 44
    assert body.core_area == 8 * 40


def test_enclosed_light_band_is_core_but_an_enclosed_hole_is_background() -> None:
    image = bar()
    image[12:15, 20:24] = 240
    image[12:15, 30:34] = 255
    core = core_mask(image, image < 250, LIMITS)
    assert core[13, 21]
    assert not core[13, 31]


def test_a_crop_cut_at_a_dark_level_still_has_a_rim() -> None:
    """Regression: crops whitened by a label map had core = halo, so their haloes could never merge."""
    image = np.full((30, 60), 255, dtype=np.uint8)
    rows, columns = np.mgrid[8:22, 8:52]
    image[8:22, 8:52] = 210 - 12 * np.minimum(7 - np.abs(rows - 14.5), 22 - np.abs(columns - 29.5))
    body = find_body(image, LIMITS)
    assert body is not None
    assert body.core_area <= LIMITS.max_core_share * body.halo_area


def test_width_of_a_bar() -> None:
    assert core_width(find_body(bar(), LIMITS).core) == pytest.approx(8.0, abs=2.0)
    assert core_width(np.zeros((4, 4), dtype=bool)) == 0.0


def test_cores_hold_the_bodies(drawn: tuple[SourceCrops, list[Drawing]]) -> None:
    """Touching rests on this: cores that share nothing hold bodies that share nothing."""
    for drawing in drawn[1]:
        halo = drawing.image < 250
        core = core_mask(drawing.image, halo, LIMITS)
        assert np.count_nonzero(drawing.body & ~core) <= 0.02 * np.count_nonzero(drawing.body)


def test_dilation_is_that_of_scipy() -> None:
    mask = np.random.default_rng(0).random((17, 23)) < 0.1
    np.testing.assert_array_equal(dilated(mask), ndimage.binary_dilation(mask, EIGHT))
