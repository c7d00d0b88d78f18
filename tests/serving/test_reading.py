"""Reading: a clean crop stays as it is, the same crop saved otherwise is read as it was, what is no crop is found."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from supcam.resaving import DOUBTFUL_KINDS, SAME_KINDS, padded
from supcam.serving import gate
from supcam.serving.bodies import connected_regions, dilated, eroded, peeled_sizes
from supcam.serving.gate import WITHOUT_TYPE, judged
from supcam.serving.images import decode_crop, read_crop
from supcam.serving.reading import Measurements, Reading, read_grey
from supcam.synthetic.sample import PLAIN, synthesize
from tests.serving.agreement import agreement

SHARED = Path(__file__).resolve().parents[3] / "shared"
TRIALS = SHARED / "trials" / "inputs"
Grey = NDArray[np.uint8]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Grey]:
    """Drawn crops: two of each type."""
    root = tmp_path_factory.mktemp("drawn") / "sample"
    table = synthesize(root, cases=1, counts=[2, 2, 2, 2], seed=11, ranges=PLAIN)
    return [decode_crop(root / path) for path in table["path"]]


def reasons(reading: Reading) -> tuple[str, ...]:
    return judged(reading.measurements)


def test_clean_crops_come_back_to_the_byte(crops: list[Grey]) -> None:
    for crop in crops:
        reading = read_grey(crop)
        assert np.array_equal(reading.image, crop)
        assert reading.notes == ()
        assert reasons(reading) == ()


@pytest.mark.parametrize("name", SAME_KINDS)
def test_the_same_crop_saved_otherwise_is_read_the_same(name: str, crops: list[Grey]) -> None:
    random = np.random.default_rng(5)
    for crop in crops:
        reading = read_crop(SAME_KINDS[name].save(crop, random))
        assert agreement(reading.image, crop) >= 0.95
        assert reasons(reading) == ()


# A changed tone curve cannot be undone, and strong compression moves outlines by a pixel: these are read, no more.
_LOOSE = {
    "gamma0.6": 0.3,
    "jpeg50_pad": 0.7,
    "bg200_noise4": 0.7,
    "noise3_pad30": 0.8,
    "noise5_pad15": 0.7,
    "jpeg75": 0.8,
    "webp": 0.8,
    "cmyk_jpeg95": 0.8,
    "bg70": 0.8,
}


@pytest.mark.parametrize("name", DOUBTFUL_KINDS)
def test_a_worse_copy_is_read_nearly_the_same_or_flagged(name: str, crops: list[Grey]) -> None:
    random = np.random.default_rng(5)
    for crop in crops:
        reading = read_crop(DOUBTFUL_KINDS[name].save(crop, random))
        assert reasons(reading) or agreement(reading.image, crop) >= _LOOSE.get(name, 0.85)


def test_what_stands_around_the_body_changes_nothing(crops: list[Grey]) -> None:
    for crop in crops:
        around = padded(crop, 30)
        around[3:6, 3:9] = 40
        around[8:9, :] = np.where(around[8:9, :] == 255, 90, around[8:9, :])
        assert agreement(read_grey(around).image, crop) >= 0.95


def blobs(count: int, side: int = 60) -> Grey:
    """Bodies in a row, far from each other."""
    y, x = np.mgrid[0:60, 0:side]
    one = np.clip(60 + 40 * np.sin(x / 3) + 3.0 * np.maximum(0, np.hypot((x - 30) / 1.5, y - 30) - 9) ** 2, 0, 255)
    return np.tile(np.rint(one).astype(np.uint8), (1, count))


def noise(spread: float, level: float) -> Grey:
    values = np.random.default_rng(3).normal(level, spread, (60, 70))
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "reason", "has_type"),
    [
        (np.full((60, 60), 255, np.uint8), gate.BLANK, False),
        (np.full((60, 60), 0, np.uint8), gate.BLANK, False),
        (np.full((60, 60), 128, np.uint8), gate.BLANK, False),
        (noise(2, 255), gate.BLANK, False),
        (noise(3, 0), gate.BLANK, False),
        (noise(60, 128), gate.NO_CLEAR_BACKGROUND, False),
        (np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint8), gate.NO_CLEAR_BACKGROUND, False),
        (blobs(2), gate.SEVERAL_BODIES, True),
        (blobs(12), gate.LARGER_THAN_A_CLUSTER, False),
        (255 - blobs(12), gate.LARGER_THAN_A_CLUSTER, False),
        (blobs(1)[:, :30], gate.CUT_OFF, True),
        (np.where(blobs(1) < 200, 60, 255).astype(np.uint8), gate.NO_GREY_VALUES, True),
    ],
)
def test_what_is_no_crop_is_found(picture: Grey, reason: str, has_type: bool) -> None:
    reasons = judged(read_grey(picture).measurements)
    assert reason in reasons
    assert WITHOUT_TYPE.isdisjoint(reasons) == has_type


def test_a_metaphase_of_twelve_million_pixels_is_averaged_down_and_refused() -> None:
    sheet = np.tile(blobs(40, side=60), (10, 1)).repeat(2, axis=0).repeat(2, axis=1)
    sheet = sheet[:3000, :4000]
    reading = read_grey(np.pad(sheet, ((0, 3000 - len(sheet)), (0, 0)), constant_values=255))
    assert max(reading.image.shape) <= 1024
    assert gate.LARGER_THAN_A_CLUSTER in reasons(reading)


def test_regions_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    for shape in ((1, 1), (1, 9), (9, 1), (40, 30)):
        for share in (0.05, 0.4, 0.6, 1.0):
            mask = random.random(shape) < share
            regions = connected_regions(mask)
            labels, count = ndimage.label(mask, np.ones((3, 3)))
            assert np.array_equal(regions.labels, labels)
            assert np.array_equal(regions.areas, np.bincount(labels.ravel())[1:])
            for box, slices in zip(regions.boxes, ndimage.find_objects(labels), strict=True):
                assert tuple(box) == (slices[0].start, slices[1].start, slices[0].stop - 1, slices[1].stop - 1)
            assert len(regions) == count


def test_growing_and_peeling_are_those_of_scipy() -> None:
    mask = np.random.default_rng(1).random((20, 25)) < 0.7
    for square in (False, True):
        around = np.ones((3, 3)) if square else None
        assert np.array_equal(dilated(mask, square=square), ndimage.binary_dilation(mask, around))
        assert np.array_equal(eroded(mask, square=square), ndimage.binary_erosion(mask, around, border_value=1))
    assert peeled_sizes(np.ones((3, 5), bool)) == [15, 3]
    assert peeled_sizes(np.zeros((3, 5), bool)) == []


def test_reasons_come_in_the_order_of_the_list_and_a_picture_that_is_no_crop_is_not_asked_more() -> None:
    good = Measurements(paper=0.5, border_paper=1.0, contrast=90, width=10, area=300, extent=40, bodies=1)
    assert judged(good) == ()
    assert judged(good, unlike_training=True, low_confidence=True) == (gate.UNLIKE_TRAINING, gate.LOW_CONFIDENCE)
    assert judged(None, low_confidence=True) == (gate.UNREADABLE,)
    two = Measurements(paper=0.5, border_paper=1.0, contrast=90, width=10, area=600, extent=90, bodies=2, cut=20)
    assert judged(two, low_confidence=True) == (gate.SEVERAL_BODIES, gate.CUT_OFF, gate.LOW_CONFIDENCE)
    assert WITHOUT_TYPE.isdisjoint(judged(two))
    assert judged(replace(two, bodies=6))[0] == gate.LARGER_THAN_A_CLUSTER
    assert gate.LARGER_THAN_A_CLUSTER in WITHOUT_TYPE


def _labels(source: str) -> list[Path]:
    root = SHARED / "data" / source
    with (root / "labels.csv").open(encoding="utf-8") as stream:
        return [root / row["path"] for row in csv.DictReader(stream)]


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="real crops are not part of the project")
@pytest.mark.parametrize("source", ["clinical-12-cases", "mfish-slides"])
def test_real_crops_come_back_to_the_byte_and_at_most_2_percent_are_flagged(source: str) -> None:
    paths = _labels(source)[:: 1 if source.startswith("clinical") else 7]
    flagged = 0
    for path in paths:
        reading = read_crop(path)
        assert np.array_equal(reading.image, np.asarray(Image.open(path).convert("L"))), path
        flagged += bool(reasons(reading))
    assert flagged <= 0.02 * len(paths)


@pytest.mark.skipif(not TRIALS.is_dir(), reason="the trials are not part of the project")
def test_trials_are_read_as_their_base_crops_or_flagged() -> None:
    with (TRIALS / "expected.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        reading = read_crop(TRIALS / row["path"])
        if row["expected"] == "flagged":
            assert reasons(reading), row["path"]
        elif row["expected"] in {"same", "base"}:
            base = np.asarray(Image.open(TRIALS / row["base"]).convert("L"))
            assert agreement(reading.image, base) >= 0.95, row["path"]
            assert not reasons(reading), row["path"]


@pytest.mark.skipif(not (SHARED / "metaphases").is_dir(), reason="real metaphases are not part of the project")
def test_real_metaphases_are_larger_than_a_cluster() -> None:
    for path in sorted((SHARED / "metaphases" / "images").iterdir())[::10]:
        assert gate.LARGER_THAN_A_CLUSTER in reasons(read_crop(path)), path


def test_a_line_drawn_around_the_body_does_not_invert_the_picture(crops: list[Grey]) -> None:
    # Outside of the line is the paper alone, which was taken for the surroundings of a cut-out.
    for crop in crops:
        drawn = padded(crop, 16, 255)
        for at in (5, -6):
            drawn[at, 5:-5] = drawn[5:-5, at] = 0
        assert "dark background inverted" not in read_crop(drawn).notes


def test_a_crop_cut_to_its_box_keeps_its_body() -> None:
    # With paper along half of the edges its surface was fitted into the body, and the crop came out blank.
    rows, columns = np.mgrid[-30:31, -20:21]
    depth = np.clip((1.5 - np.abs(rows) / 30 - np.abs(columns) / 20) * 4, 0, 1)  # a soft edge, as chromosomes have
    crop = (255 - depth * (145 - 40 * np.sin(rows / 4))).astype(np.uint8)
    reading = read_crop(crop)
    assert WITHOUT_TYPE.isdisjoint(judged(reading.measurements))
    np.testing.assert_array_equal(reading.image, crop)


def test_signed_values_without_negative_ones_are_what_they_say(crops: list[Grey]) -> None:
    # White at 32,767, as scikit-image saves it: taken for a depth moved down by half, it lost half of its contrast.
    for crop in crops[:10]:
        signed = np.round(crop / 255 * 32767).astype(np.int16)
        assert np.abs(read_crop(signed).image.astype(int) - decode_crop(crop)).max() <= 1


def test_a_cut_out_in_a_jpeg_goes_to_review(crops: list[Grey]) -> None:
    for crop in crops[:10]:
        reading = read_grey(np.where(crop < 250, crop, 0).astype(np.uint8), lossy=True)
        assert gate.BLURRED_OUTLINE in judged(reading.measurements)
