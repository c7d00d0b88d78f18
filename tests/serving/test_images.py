"""Reading as a whole: decoded and on white, or refused; and the two squares a crop becomes."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from supcam.serving.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageError,
    decode_crop,
    letterbox,
    native_canvas,
    read_crop,
)
from tests.support.drawing import draw_crop, encode

CROP = draw_crop(1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_grey_is_unchanged(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"name with spaces [1].{kind.lower()}"
    path.write_bytes(encode(CROP, kind))
    assert np.array_equal(decode_crop(path), CROP)
    assert np.array_equal(decode_crop(str(path)), CROP)
    assert read_crop(path).notes == ()


def test_jpeg_stays_close() -> None:
    assert np.abs(decode_crop(encode(CROP, "JPEG", quality=95)).astype(int) - CROP).mean() < 4


def test_dark_background_is_inverted_with_a_note() -> None:
    decoded = read_crop(encode(255 - CROP))
    assert np.array_equal(decoded.image, CROP)
    assert decoded.notes == ("dark background inverted",)


def test_grey_background_is_stretched_with_a_note() -> None:
    grey = (CROP.astype(float) * 220 / 255).round().astype(np.uint8)
    decoded = read_crop(encode(grey))
    assert np.abs(decoded.image.astype(int) - CROP).max() <= 1
    assert decoded.image[0, 0] == 255
    assert decoded.notes == ("grey background 220 stretched to 255",)


@pytest.mark.parametrize("paper", [100, 127, 128])
def test_paper_darker_than_half_is_stretched_too(paper: int) -> None:
    """What the rim of the body is nearer to is paper, however dark."""
    grey = (CROP.astype(float) * paper / 255).round().astype(np.uint8)
    decoded = read_crop(encode(grey))
    assert np.abs(decoded.image.astype(int) - CROP).max() <= 2
    assert decoded.notes == (f"grey background {paper} stretched to 255",)


def test_notes_of_decoding_come_before_those_of_the_paper() -> None:
    deep = np.round((255 - CROP) / 255 * 4095).astype(np.uint16)
    decoded = read_crop(encode(Image.fromarray(deep), "PNG"))
    assert np.array_equal(decoded.image, CROP)
    assert decoded.notes == ("16-bit values (12 bits in use) scaled to 8 bits", "dark background inverted")


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(CROP).copy()
    decoded = read_crop(encode(stored, "PNG", exif=exif))
    assert np.array_equal(decoded.image, CROP)
    assert decoded.notes == ("rotated upright as its EXIF entry says",)


def test_a_page_of_a_stack_is_read_when_named() -> None:
    other = draw_crop(2)
    stack = encode(CROP, "TIFF", save_all=True, append_images=[Image.fromarray(other)])
    with pytest.raises(ImageError, match="stack of 2 planes"):
        read_crop(stack)
    assert np.array_equal(decode_crop(stack, page=2), other)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "BMP"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_is_refused(kind: str, share: float) -> None:
    content = encode(CROP, kind)
    with pytest.raises(ImageError):
        decode_crop(content[: int(len(content) * share)])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "BMP"])
def test_archive_behind_the_image_is_refused(kind: str) -> None:
    buffer = io.BytesIO(encode(CROP, kind))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("payload.py", "print('hello')")
    with pytest.raises(ImageError, match="two formats in one file"):
        decode_crop(buffer.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "BMP"])
@pytest.mark.parametrize("behind", [b"<script>alert(1)</script>", b"%PDF-1.4", bytes(100)])
def test_other_bytes_behind_the_image_are_left_unread(kind: str, behind: bytes) -> None:
    """Cameras pad files and add blocks of their own; only the image is decoded, and nothing else is ever run."""
    content = encode(CROP, kind)
    assert np.array_equal(decode_crop(content + behind), decode_crop(content))


def test_a_mark_of_an_archive_in_the_pixels_is_not_an_archive() -> None:
    """A BMP holds its pixels as they are: they may spell the end mark of a zip file."""
    spelt = CROP.copy()
    row, column = np.argwhere(CROP < 128)[len(CROP) // 2]  # in the body: beside it they would be dirt
    spelt[row, column : column + 4] = list(b"PK\x05\x06")
    assert np.array_equal(decode_crop(encode(spelt, "BMP")), spelt)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {}),
     ("GIF", {}), ("WEBP", {"lossless": True}),
     ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}), ("TIFF", {"big_tiff": True})],
)  # fmt: skip
def test_a_cut_file_is_refused_or_has_all_its_pixels(kind: str, options: dict[str, object]) -> None:
    """Some files end in bytes that no pixel needs; nowhere may half a crop be taken for a whole one."""
    whole = encode(CROP, kind, **options)
    expected, read = decode_crop(whole), 0
    for end in sorted({*range(0, len(whole), 41), *range(len(whole) - 20, len(whole))}):
        try:
            decoded = decode_crop(whole[:end])
        except ImageError:
            continue
        read += 1
        np.testing.assert_array_equal(decoded, expected, err_msg=f"{end} of {len(whole)} bytes")
    assert read <= 20


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (2, 2**14 + 1), (3, 2**14 + 1)])
def test_absurd_sides_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"pixels; allowed are sides of 3 to 16384. Cut out the crop"):
        decode_crop(encode(np.full(shape, 255, dtype=np.uint8)))


def test_other_formats_are_refused() -> None:
    for content in (encode(CROP, "ICO"), b"%PDF-1.4", b"not an image", b""):
        with pytest.raises(ImageError):
            decode_crop(content)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(ImageError, match=f"{side} x {side} pixels"):
        decode_crop(encode(np.full((side, side), 255, dtype=np.uint8), "PNG"))


def test_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.png is text, not a picture"):
        decode_crop(path)
    with pytest.raises(ImageError, match=r"absent\.png cannot be opened"):
        decode_crop(tmp_path / "absent.png")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(8, 128))
def test_canvases_have_their_size_and_keep_the_body(height: int, width: int, size: int) -> None:
    crop = np.zeros((height, width), dtype=np.uint8)
    boxed, native = letterbox(crop, size), native_canvas(crop, size)
    assert boxed.shape == native.shape == (size, size)
    rows, columns = np.flatnonzero((boxed < 255).any(axis=1)), np.flatnonzero((boxed < 255).any(axis=0))
    assert max(len(rows), len(columns)) == size
    scale = size / max(height, width)
    assert abs(len(rows) - height * scale) <= 1
    assert abs(len(columns) - width * scale) <= 1
    if max(height, width) <= size:
        assert (native < 255).sum() == height * width


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=60)),
    st.tuples(*[st.integers(0, 60)] * 4),
    st.integers(8, 64),
)
def test_a_white_frame_changes_no_canvas(crop: NDArray[np.uint8], frame: tuple[int, int, int, int], size: int) -> None:
    crop[0, 0] = 0  # an empty crop has no foreground and so no frame
    top, bottom, left, right = frame
    framed = np.pad(crop, ((top, bottom), (left, right)), constant_values=255)
    for fit in (letterbox, native_canvas):
        np.testing.assert_array_equal(fit(framed, size), fit(crop, size))


def test_a_crop_without_foreground_stays_whole() -> None:
    assert (letterbox(np.full((5, 9), 250, dtype=np.uint8), 16) == 250).sum() == 16 * 9


def test_shrinking_averages_over_areas() -> None:
    stripes = np.tile(np.array([0, 240], dtype=np.uint8), (64, 32))
    assert np.all(letterbox(stripes, 32) == 120)


def test_suffixes_are_lower_case() -> None:
    assert {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"} == IMAGE_SUFFIXES


def test_no_real_crop_is_altered(shared_data: Path) -> None:
    paths = sorted(path for path in shared_data.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in paths[:: max(1, len(paths) // 200)]:
        decoded = read_crop(path)
        assert decoded.notes == ()
        assert np.array_equal(decoded.image, np.asarray(Image.open(path)))
