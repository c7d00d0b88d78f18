"""Crops saved again with sizes, places, levels and colours at random: read as before, or flagged."""

import io

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from supcam.serving.decoding import decode_plane
from supcam.serving.gate import BLURRED_OUTLINE, LARGER_THAN_A_CLUSTER, judged
from supcam.serving.images import read_crop
from supcam.serving.reading import read_grey
from supcam.serving.surroundings import SOFT_NOTE
from tests.serving.agreement import agreement
from tests.support.drawing import draw_crop
from tests.support.more_kinds import MORE_KINDS

CROPS = [draw_crop(seed) for seed in range(6)]
Grey = NDArray[np.uint8]


def saved(name: str, crop: Grey, seed: int = 5) -> bytes:
    return MORE_KINDS[name].save(crop, np.random.default_rng(seed))


# A changed tone, a turned crop, strong noise (it hides the pale rim of drawn crops) and strong compression change the
# outline itself; a dead pixel may touch it.
_LOOSE = {
    "dirt": 0.9,
    "gamma": 0.3,
    "contrast": 0.3,
    "noise": 0.3,
    "jpeg": 0.7,
    "resampled": 0.75,
    "sharpness": 0.7,
    "size": 0.75,
}


@pytest.mark.parametrize("name", MORE_KINDS)
def test_a_crop_saved_otherwise_is_read_the_same_or_flagged(name: str) -> None:
    kind = MORE_KINDS[name]
    least = _LOOSE.get(kind.family, 0.95 if kind.expected == "same" else 0.85)
    for seed, crop in enumerate(CROPS):
        reading = read_crop(saved(name, crop, seed))
        flagged = bool(judged(reading.measurements))
        assert agreement(reading.image, crop) >= least or (flagged and kind.expected != "same"), seed


def test_what_plain_crops_skip_would_have_found_nothing() -> None:
    """8-bit crops on white take a short way; as fractions they take the long one. Clipped noise is mostly white too."""
    random = np.random.default_rng(0)
    noisy = [
        np.clip(np.rint(np.pad(crop, 9, constant_values=255) + random.normal(0, sigma, (58, 48))), 0, 255)
        for crop, sigma in zip(CROPS, (0.3, 0.7, 1, 2, 3, 5), strict=True)
    ]
    for crop in (*CROPS, *(crop.astype(np.uint8) for crop in noisy)):
        short, long = read_grey(crop), read_grey(crop.astype(np.float32))
        np.testing.assert_array_equal(short.image, long.image)
        assert (short.notes, short.measurements) == (long.notes, long.measurements)


@pytest.mark.parametrize("name", ["cut_out_bilinear", "cut_out_turned", "cut_out_feathered"])
def test_a_soft_outline_keeps_no_dark_seam(name: str) -> None:
    """The mixture of the body's pale rim and black was kept as a dark seam, or the whole crop inverted."""
    for seed, crop in enumerate(CROPS):
        reading = read_crop(saved(name, crop, seed))
        assert "dark background inverted" not in reading.notes
        rebuilt = SOFT_NOTE in reading.notes
        assert (BLURRED_OUTLINE in judged(reading.measurements)) == rebuilt
        assert rebuilt or name != "cut_out_feathered"
        white = np.pad(reading.image == 255, 1, constant_values=True)
        beside = white[:-2, 1:-1] | white[2:, 1:-1] | white[1:-1, :-2] | white[1:-1, 2:]
        rim = reading.image[beside & (reading.image < 255)]
        assert np.median(rim) > 150


def test_a_bright_body_on_dark_paper_is_no_cut_out() -> None:
    for crop in CROPS:
        for scale in (0.7, 1, 1.6):
            image = Image.fromarray(np.pad(255 - crop, 4))
            size = (round(image.width * scale), round(image.height * scale))
            reading = read_grey(np.asarray(image.resize(size, Image.Resampling.BILINEAR)))
            assert reading.notes[:1] == ("dark background inverted",)
            assert BLURRED_OUTLINE not in judged(reading.measurements)


def test_dead_lines_are_filled_in_and_drawn_bars_are_not() -> None:
    crop = np.pad(CROPS[0], 10, constant_values=255)
    dead = crop.copy()
    dead[len(crop) // 2] = 0
    reading = read_grey(dead)
    assert reading.notes == ("dead line filled in",)
    assert agreement(reading.image, crop) >= 0.95
    thick = crop.copy()
    thick[len(crop) // 2 : len(crop) // 2 + 4] = 0
    assert "dead line filled in" not in read_grey(thick).notes


def test_frames_of_two_levels_lie_in_each_other() -> None:
    crop = np.pad(CROPS[1], 6, constant_values=255)
    framed = crop
    for level, width in ((0, 1), (255, 2), (90, 2)):
        framed = np.pad(framed, width, constant_values=level)
    reading = read_grey(framed)
    assert reading.notes == ("frame taken off",)
    np.testing.assert_array_equal(reading.image[5:-5, 5:-5], crop)


def test_a_sheet_of_dots_is_refused_after_looking_at_the_largest() -> None:
    """Each of 65,000 dots was looked at, for five seconds."""
    random = np.random.default_rng(0)
    sheet = np.full((400, 400), 255, dtype=np.uint8)
    for row in range(4, 396, 4):
        sheet[row : row + 2, 4:396] = np.where(np.arange(392) % 4 < 2, random.integers(0, 200, (2, 392)), 255)
    reading = read_grey(sheet)
    assert reading.measurements.bodies <= 129
    assert LARGER_THAN_A_CLUSTER in judged(reading.measurements)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_white_at_zero_in_any_depth(bits: int, compression: str | None) -> None:
    """White was taken for 65,535 in all of them: a pale picture."""
    stream = io.BytesIO()
    values = np.rint((255 - CROPS[0]) / 255 * (2**bits - 1)).astype(np.uint16)
    tifffile.imwrite(stream, values, photometric="miniswhite", compression=compression)
    found = np.rint(decode_plane(stream.getvalue()).values)
    np.testing.assert_array_equal(found, CROPS[0])


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_profile_larger_than_the_picture_is_no_stack(size: int) -> None:
    profile = bytes(range(256)) * (size * CROPS[0].size // 256 + 1)
    stream = io.BytesIO()
    Image.fromarray(CROPS[0]).save(stream, "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(decode_plane(stream.getvalue()).values, CROPS[0])


def test_a_page_is_for_stacks_and_other_files_of_the_folder_are_read_without() -> None:
    for name in ("profile_large", "exif_any_png", "u16_any_white"):
        content = saved(name, CROPS[0])
        np.testing.assert_array_equal(decode_plane(content, page=2).values, decode_plane(content).values)


@pytest.mark.parametrize("white", [300, 2**17 + 5, 2**21, 2**25 + 9, 2**31 - 1])
def test_sums_of_pictures_have_any_depth(white: int) -> None:
    values = np.rint(CROPS[0] / 255 * white).astype(np.int32)
    assert np.abs(read_crop(values).image.astype(int) - CROPS[0]).max() <= 1
