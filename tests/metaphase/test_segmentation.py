"""Objects of drawn metaphases are found where they were drawn, whatever the stain, depth, light and resolution."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from supcam.data.mask_clusters import regions_of
from supcam.data.masks import crop_of, picture_on_white
from supcam.metaphase.metaphase import Segmented, segment
from supcam.metaphase.objects import NUCLEUS
from tests.support.drawing import encode
from tests.support.metaphases import Drawn, draw_metaphase, matched


def found_in(segmented: Segmented) -> NDArray[np.int32]:
    labels = np.zeros(segmented.image.shape, dtype=np.int32)
    chromosomes = [thing for thing in segmented.scene.things if thing.is_chromosome]
    for number, thing in enumerate(chromosomes, 1):
        labels[thing.box][thing.mask] = number
    return labels


def assert_found(drawn: Drawn, picture: NDArray[np.generic]) -> Segmented:
    segmented = segment(picture)
    hits, false, missed = matched(found_in(segmented), drawn.truth)
    assert missed <= 1
    assert false <= 1
    assert hits >= drawn.count - 1
    return segmented


@pytest.mark.parametrize("seed", range(3))
def test_banded_chromosomes_on_uneven_paper(seed: int) -> None:
    drawn = draw_metaphase(seed)
    segmented = assert_found(drawn, drawn.picture)
    nuclei = [thing for thing in segmented.scene.things if thing.reason == NUCLEUS]
    assert all(drawn.nuclei[thing.box][thing.mask].mean() > 0.8 for thing in nuclei)
    assert len(nuclei) == 2


def test_dyes_that_glow_on_dark_ground() -> None:
    drawn = draw_metaphase(5, glow=0.2, paper=240, shade=0.1)
    assert_found(drawn, 255 - drawn.picture)


def test_twelve_bits_in_sixteen() -> None:
    drawn = draw_metaphase(6)
    assert_found(drawn, drawn.picture.astype(np.uint16) * 16)


@pytest.mark.parametrize(("side", "width"), [(400, 6.0), (1500, 30.0)])
def test_resolution_does_not_matter(side: int, width: float) -> None:
    drawn = draw_metaphase(7, side=side, width=width, singles=20, nuclei=1)
    segmented = assert_found(drawn, drawn.picture)
    assert segmented.scene.width == pytest.approx(width, rel=0.35)


def test_crops_show_one_object_on_white() -> None:
    segmented = segment(draw_metaphase(8).picture)
    for crop in segmented.crops:
        assert (np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]]) == 255).all()
        assert crop.min() < 200


def test_crops_have_the_rim_that_crops_from_masks_have() -> None:
    """The model sees what it was trained on: the soft edge within a pixel of the outline, and nothing beyond."""
    drawn = draw_metaphase(8, nuclei=0, specks=0, shade=0)
    segmented = segment(drawn.picture)
    grey = picture_on_white(encode(drawn.picture))
    for thing, crop in zip(segmented.scene.things, segmented.crops, strict=True):
        owners = np.zeros(drawn.picture.shape, dtype=np.int32)
        owners[thing.box][thing.mask] = 1
        trained = np.asarray(Image.open(io.BytesIO(crop_of(grey, regions_of(owners)[0]))))
        shown = [np.argwhere(picture < 252) for picture in (crop, trained)]
        assert len(shown[0]) == pytest.approx(len(shown[1]), rel=0.05)
        assert np.ptp(shown[0], axis=0) == pytest.approx(np.ptp(shown[1], axis=0), abs=1)
