"""The one decoder: every form crops come in, and every form they are refused in."""

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

from supcam.serving.extent import end_of_image
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA", "YCbCr", "I;16", "F", "I"])
def test_every_mode_gives_the_same_grey(mode: str) -> None:
    grey = Image.fromarray(CROP)
    if mode == "I;16":
        picture = Image.fromarray(CROP.astype(np.uint16) * 257)
    elif mode == "I":
        picture = Image.fromarray(CROP.astype(np.int32) * 257)
    elif mode == "F":
        picture = Image.fromarray(CROP.astype(np.float32) / 255)
    else:
        picture = grey.convert("RGB").convert(mode) if mode in {"CMYK", "YCbCr"} else grey.convert(mode)
    decoded = read_crop(encode(picture, "TIFF"))
    assert np.abs(decoded.image.astype(int) - CROP).max() <= 1
    assert len(decoded.notes) == 1


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_depth_of_the_camera_is_recognised(bits: int) -> None:
    deep = np.round(CROP / 255 * (2**bits - 1)).astype(np.uint16)
    decoded = read_crop(encode(Image.fromarray(deep), "PNG"))
    assert np.array_equal(decoded.image, CROP)
    assert decoded.notes == (f"{bits}-bit grey scaled to 8 bits",)


def test_jpeg_stays_close() -> None:
    assert np.abs(decode_crop(encode(CROP, "JPEG", quality=95)).astype(int) - CROP).mean() < 4


def test_transparent_background_is_white() -> None:
    alpha = Image.fromarray(np.where(CROP == 255, 0, 255).astype(np.uint8))
    picture = Image.merge("LA", (Image.fromarray(np.where(CROP == 255, 0, CROP).astype(np.uint8)), alpha))
    assert np.array_equal(decode_crop(encode(picture)), CROP)


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


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(CROP).copy()
    decoded = read_crop(encode(stored, "PNG", exif=exif))
    assert np.array_equal(decoded.image, CROP)
    assert decoded.notes == ("rotated upright as its EXIF entry says",)


def test_first_page_of_a_tiff() -> None:
    other = Image.fromarray(draw_crop(2))
    decoded = read_crop(encode(CROP, "TIFF", save_all=True, append_images=[other]))
    assert np.array_equal(decoded.image, CROP)
    assert decoded.notes == ("first of several pages used",)


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


def test_script_behind_the_image_is_refused() -> None:
    with pytest.raises(ImageError, match="two formats in one file"):
        decode_crop(encode(CROP) + b"<script>alert(1)</script>")


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


PAYLOADS = {
    "script": b"<script>alert(1)</script>",
    "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
    "7z": b"7z\xbc\xaf'\x1c" + bytes(range(200)),
    "elf": b"\x7fELF" + bytes(range(200)),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "BMP"])
def test_payload_dressed_as_part_of_the_image_is_refused(kind: str, payload: bytes) -> None:
    """A second end mark, or a header that claims the whole file, used to let the payload through."""
    whole = encode(CROP, kind)
    tail = {"PNG": whole[-12:], "JPEG": b"\xff\xd9"}.get(kind, b"")
    dressed = [whole + payload + tail]
    if kind == "BMP":
        dressed += [patched(dressed[0], 2, size) for size in (bytes(4), len(dressed[0]).to_bytes(4, "little"))]
    for content in dressed:
        with pytest.raises(ImageError, match="two formats in one file"):
            decode_crop(content)
        assert np.array_equal(decode_crop(whole + bytes(100)), decode_crop(whole))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "tiff_lzw"},
        {"compression": "tiff_adobe_deflate", "tiffinfo": {270: "a long description of the slide", 305: "camera"}},
        {"compression": "jpeg"},
        {"big_tiff": True},
        {"save_all": True, "append_images": [Image.fromarray(draw_crop(2))]},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"},
    ],
    ids="-".join,
)
def test_end_of_a_tiff_is_found_in_every_form(options: dict[str, object]) -> None:
    content = encode(CROP, "TIFF", **options)
    assert len(content) - 16 < (end_of_image(content) or 0) <= len(content)  # pages begin at multiples of 16
    with pytest.raises(ImageError, match="two formats in one file"):
        decode_crop(content + PAYLOADS["elf"])


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}, {"comment": b"text \xff\xd9"}])
def test_end_of_a_jpeg_is_not_the_first_mark_that_looks_like_one(options: dict[str, object]) -> None:
    content = encode(CROP, "JPEG", **options)
    assert end_of_image(content) == len(content)


def test_directories_of_a_tiff_that_name_each_other_end() -> None:
    content = bytearray(encode(CROP, "TIFF"))
    first = int.from_bytes(content[4:8], "little")
    last = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[last : last + 4] = content[4:8]
    assert end_of_image(bytes(content)) == len(content)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (2, 2**14 + 1), (3, 2**14 + 1)])
def test_absurd_sides_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"pixels; allowed are sides of 3 to 16384. Cut out the crop"):
        decode_crop(encode(np.full(shape, 255, dtype=np.uint8)))


def test_other_formats_are_refused() -> None:
    for content in (encode(CROP, "GIF"), b"%PDF-1.4", b"not an image", b""):
        with pytest.raises(ImageError):
            decode_crop(content)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(ImageError, match=f"{side} x {side} pixels"):
        decode_crop(encode(np.full((side, side), 255, dtype=np.uint8), "PNG"))


def test_negative_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="negative or undefined"):
        decode_crop(encode(Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)), "TIFF"))


def test_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.png cannot be read"):
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
    crop[0, 0] = 0  # an empty crop has no foreground whose frame could be told
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
    assert {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"} == IMAGE_SUFFIXES


def test_no_real_crop_is_altered(shared_data: Path) -> None:
    paths = sorted(path for path in shared_data.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in paths[:: max(1, len(paths) // 200)]:
        decoded = read_crop(path)
        assert decoded.notes == ()
        assert np.array_equal(decoded.image, np.asarray(Image.open(path)))
