"""What is no metaphase is named for what it is, in one line; what is one keeps its objects."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from supcam.metaphase.metaphase import segment
from supcam.metaphase.objects import DEBRIS, NEIGHBOUR, NUCLEUS
from supcam.serving.gate import CUT_OFF
from tests.support.drawing import draw_crop
from tests.support.metaphases import draw_metaphase, matched, paste_crops


def karyogram(count: int = 46) -> NDArray[np.uint8]:
    """Upright banded bars in rows on clean white."""
    sheet = np.full((700, 1000), 255, dtype=np.uint8)
    rng = np.random.default_rng(0)
    for index in range(count):
        top, left, length = 20 + 170 * (index // 12), 20 + 80 * (index % 12), int(rng.integers(50, 140))
        bands = 120 + 50 * np.sin(np.arange(length) / rng.uniform(3, 6))[:, np.newaxis]
        sheet[top : top + length, left : left + 16] = np.broadcast_to(bands, (length, 16))
    return sheet


def photo() -> NDArray[np.uint8]:
    """A scene of many levels without paper."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 50)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((800, 640), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((300, 400), 240, dtype=np.uint8), "nothing stands out"),
        (draw_metaphase(1, singles=0, pairs=0, nuclei=6).picture, "interphase nuclei only"),
        (255 - draw_metaphase(1, singles=0, pairs=0, nuclei=6).picture, "interphase nuclei only"),
        (draw_metaphase(1, singles=0, pairs=0, nuclei=0, specks=5000, side=800).picture, "specks"),
        (karyogram(), "karyogram"),
        (draw_crop(3, 60, 60), "supcam predict"),
        (photo(), "no metaphase"),
    ],
    ids=["blank", "nuclei", "nuclei on dark ground", "specks", "karyogram", "crop", "photo"],
)
def test_what_is_no_metaphase_says_what_it_is(picture: NDArray[np.uint8], words: str) -> None:
    scene = segment(picture).scene
    assert scene.refused
    assert words in scene.reason
    assert "\n" not in scene.reason
    assert scene.things == ()


def test_two_metaphases_keep_their_objects_and_say_so() -> None:
    one, other = (draw_metaphase(seed, nuclei=0, pairs=0, singles=40).picture for seed in (3, 4))
    scene = segment(np.hstack([one, other])).scene
    assert not scene.refused
    assert "more than one metaphase" in scene.reason
    assert len(scene.things) > 60


@pytest.mark.parametrize("inverted", [False, True], ids=["dark on bright", "bright on dark"])
def test_a_metaphase_that_the_edge_cuts_off_is_left_out_beside_a_whole_one(inverted: bool) -> None:
    drawn = [draw_metaphase(seed, side=450, nuclei=0, pairs=0, specks=0, singles=36, shade=0) for seed in (3, 4)]
    picture = np.hstack([one.picture for one in drawn])[:, :700]
    segmented = segment(255 - picture if inverted else picture)
    assert not segmented.scene.refused
    assert "another metaphase" in segmented.scene.reason
    kept = [thing for thing in segmented.scene.things if thing.reason == ""]
    assert sum(thing.left < 450 for thing in kept) >= 0.9 * drawn[0].count
    assert sum(thing.left >= 450 for thing in kept) <= 3  # an island that is nearer to the whole metaphase
    left_out = [thing.left for thing in segmented.scene.things if thing.reason == NEIGHBOUR]
    assert len(left_out) >= 10
    assert min(left_out) >= 450
    assert len(segmented.crops) == sum(thing.is_chromosome for thing in segmented.scene.things)


def test_one_metaphase_that_the_edge_cuts_off_keeps_its_objects() -> None:
    drawn = draw_metaphase(9, nuclei=0, specks=0)
    middle = int(np.median(np.nonzero(drawn.truth)[1]))
    scene = segment(drawn.picture[:, : middle + 100]).scene
    assert CUT_OFF in {thing.reason for thing in scene.things}
    assert NEIGHBOUR not in {thing.reason for thing in scene.things}


def test_a_nucleus_paler_than_chromosomes_is_a_nucleus() -> None:
    """Its inside is even, so that it stands out from its surroundings at its outline only."""
    drawn = draw_metaphase(10, nuclei=0, specks=0, side=800)
    rows, columns = np.mgrid[0:800, 0:800]
    inside = np.hypot(rows - 760, columns - 40) < 110
    grain = np.random.default_rng(0).normal(0, 6, drawn.picture.shape)
    picture = np.where(inside, np.clip(drawn.picture * 0.75 + grain, 0, 255), drawn.picture).astype(np.uint8)
    things = segment(255 - picture).scene.things
    over = [thing for thing in things if inside[thing.box][thing.mask].mean() > 0.5]
    assert over
    assert {thing.reason for thing in over if thing.area > 200} == {NUCLEUS}


def test_objects_at_the_edge_are_cut_off() -> None:
    drawn = draw_metaphase(9, nuclei=0, specks=0)
    top, left = (int(places.min()) for places in np.nonzero(drawn.truth))
    things = segment(drawn.picture[top + 12 :, left + 12 :]).scene.things
    cut = [thing for thing in things if thing.reason == CUT_OFF]
    assert cut
    assert all(thing.top == 0 or thing.left == 0 for thing in cut)
    assert all(thing.is_chromosome for thing in cut)


def test_debris_beside_chromosomes_gets_no_type() -> None:
    drawn = draw_metaphase(10, nuclei=1, specks=0)
    picture = drawn.picture.copy()
    rows, columns = np.nonzero(~_grown(drawn.truth > 0) & ~_grown(drawn.nuclei))
    place = int(np.argmin(np.hypot(rows - 300, columns - 300)))
    picture[rows[place] : rows[place] + 6, columns[place] : columns[place] + 6] = 60
    reasons = [thing.reason for thing in segment(picture).scene.things]
    assert reasons.count(DEBRIS) == 1
    assert reasons.count(NUCLEUS) == 1


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, iterations=16))


def test_real_metaphases_are_found(shared_metaphases: Path) -> None:
    """Two metaphases of slides that no parameter was chosen on; full counts: supcam.experiments.metaphases."""
    from scipy import ndimage

    hits = false = missed = 0
    for cell in ("A0102XY", "V270561"):
        segmented = segment(shared_metaphases / "images" / f"{cell}.tif")
        labels = np.zeros(segmented.image.shape, dtype=np.int32)
        for number, thing in enumerate(segmented.scene.things, 1):
            if thing.is_chromosome:
                labels[thing.box][thing.mask] = number
        truth = ndimage.label(np.asarray(Image.open(shared_metaphases / "labels" / f"{cell}.png")) > 0, np.ones((3, 3)))
        found = matched(_compact(labels), truth[0])
        hits, false, missed = hits + found[0], false + found[1], missed + found[2]
    assert hits / (hits + missed) > 0.85
    assert hits / (hits + false) > 0.75


def test_a_real_metaphase_beside_a_whole_one_is_left_out(shared_metaphases: Path) -> None:
    """The map marks one of the two in the picture."""
    scene = segment(shared_metaphases / "images" / "V291362.tif").scene
    marked = np.asarray(Image.open(shared_metaphases / "labels" / "V291362.png")) > 0
    of_marked = {True: 0, False: 0}
    for thing in scene.things:
        if marked[thing.box][thing.mask].mean() > 0.3:
            of_marked[thing.is_chromosome] += 1
    left_out = [thing for thing in scene.things if thing.reason == NEIGHBOUR]
    assert of_marked[True] >= 33
    assert of_marked[False] == 0
    assert len(left_out) >= 30
    assert f"{len(left_out)} objects of another metaphase" in scene.reason


def test_a_dense_real_metaphase_in_haze_is_no_nucleus(shared_metaphases: Path) -> None:
    things = segment(shared_metaphases / "images" / "V270360.tif").scene.things
    assert NUCLEUS not in {thing.reason for thing in things}
    assert sum(thing.is_chromosome for thing in things) >= 22


def test_real_banded_crops_on_noisy_paper_are_found(shared_data: Path) -> None:
    """One clinical case pasted onto one picture, dark on uneven white."""
    table = pd.read_csv(shared_data / "clinical-12-cases" / "labels.csv")
    paths = table.loc[table["case"] == "case7", "path"][:40]
    crops = [np.asarray(Image.open(shared_data / "clinical-12-cases" / path).convert("L")) for path in paths]
    drawn = paste_crops(crops, 1)
    segmented = segment(drawn.picture)
    labels = np.zeros(drawn.truth.shape, dtype=np.int32)
    for number, thing in enumerate(segmented.scene.things, 1):
        if thing.is_chromosome:
            labels[thing.box][thing.mask] = number
    hits, false, missed = matched(_compact(labels), drawn.truth)
    assert missed <= 2
    assert false <= 5
    assert hits >= 38


def _compact(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    values, places = np.unique(labels, return_inverse=True)
    return np.asarray(places.reshape(labels.shape) + int(values[0] != 0), dtype=np.int32)
