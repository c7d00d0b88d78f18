"""Decoding: every form in which a picture comes gives the same grey, everything else one line that names it."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from supcam.resaving import tiff
from supcam.serving.decoding import ImageError, decode_plane, shown_path
from supcam.serving.levels import Refused, grey_of_colour, scaled_grey
from tests.support.drawing import draw_crop, encode

CROP = draw_crop(1)
SINGLE = Path(__file__).resolve().parents[3] / "shared" / "trials" / "inputs" / "single"


def decoded(source: Any, **options: Any) -> NDArray[np.uint8]:
    return np.rint(decode_plane(source, **options).values).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_eight_bit_grey_is_unchanged_whatever_the_name_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "name with spaces [1].jpg"
    path.write_bytes(encode(CROP, kind))
    assert np.array_equal(decoded(path), CROP)
    assert np.array_equal(decoded(str(path)), CROP)
    assert np.array_equal(decoded(bytearray(path.read_bytes())), CROP)


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64", "uint32"])
def test_every_number_type_of_tiff(kind: str, compression: str | None) -> None:
    whole = {"uint8": 255, "uint16": 65535, "uint32": 2**32 - 1}.get(kind, 1)
    values = CROP / 255 * whole
    stored = np.rint(values).astype(kind) if whole > 1 else values.astype(kind)
    assert np.abs(decoded(tiff(stored, compression=compression)).astype(int) - CROP).max() <= (kind == "float16")


@pytest.mark.parametrize("kind", ["tiff_lzw-8", "tiff_lzw-16", "packbits-8", "packbits-16", "jpeg"])
def test_compressions_that_tifffile_leaves_to_another_library(kind: str) -> None:
    buffer = io.BytesIO()
    values: NDArray[Any] = CROP * np.uint16(257) if kind.endswith("16") else CROP
    options = {"quality": 100} if kind == "jpeg" else {}
    Image.fromarray(values).save(buffer, "TIFF", compression=kind.partition("-")[0], **options)
    assert np.abs(decoded(buffer.getvalue()).astype(int) - CROP).max() <= (3 if kind == "jpeg" else 0)


def test_sixteen_bit_colours_keep_their_low_byte_in_tiff_and_png() -> None:
    """Pillow alone reads the high byte: 12 bits in 16 became 4."""
    from supcam.resaving import KINDS

    for name in ("rgb16_12bit", "u16_planar_rgb_12bit", "png16_rgb_12bit"):
        assert np.array_equal(decoded(KINDS[name].save(CROP, np.random.default_rng(0))), CROP), name


def test_sixteen_bit_grey_with_alpha_in_png_keeps_its_low_byte() -> None:
    import struct
    import zlib

    grey = np.rint(CROP / 255 * 4095).astype(">u2")
    pairs = np.stack([grey, np.full_like(grey, 65535)], axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pairs)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", CROP.shape[1], CROP.shape[0], 16, 4, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decoded(b"\x89PNG\r\n\x1a\n" + data), CROP)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_and_png_stand_upright_the_same_way(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decoded(encode(CROP, "PNG", exif=exif))
    assert np.array_equal(decoded(tiff(CROP, extratags=[(274, "H", 1, orientation, True)])), upright)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 4095]] * 8, np.uint16), 255),
        (np.array([[0, 1900]] * 8, np.uint16), 1900 / 4095 * 255),
        (np.array([[-2048, 2047]] * 8, np.int16), 255),
        (np.array([[-128, 127]] * 8, np.int8), 255),
        (np.array([[32768, 36863]] * 8, np.uint16), 255),
        (np.array([[0.0, 1.002]] * 8, np.float32), 255),
        (np.array([[0, 255]] * 8, np.uint64), 255),
        (np.array([[0, 3000 * 16]] * 8, np.uint16), 48000 / 65535 * 255),
    ],
)
def test_full_scale_is_the_depth_that_holds_the_values(values: NDArray[Any], expected: float) -> None:
    scaled = scaled_grey(values)[0]
    assert scaled.max() == pytest.approx(expected, abs=0.01)
    assert scaled.min() == pytest.approx(0, abs=0.01)


def test_one_hot_pixel_does_not_change_the_depth() -> None:
    values = np.full((20, 20), 4095, np.uint16)
    values[3, 4] = 65535
    assert (scaled_grey(values)[0] == 255).all()


def test_fractions_below_zero_have_no_known_black() -> None:
    with pytest.raises(Refused, match="which of them is black is not known"):
        scaled_grey(np.linspace(-2, 2, 64, dtype=np.float32).reshape(8, 8))


def test_blue_on_black_keeps_its_values_and_red_on_white_its_luma() -> None:
    blue = np.zeros((20, 20, 3), np.uint8)
    blue[5:12, 5:12, 2] = 200
    assert grey_of_colour(blue)[0].max() == 200
    red = np.full((20, 20, 3), 255, np.uint8)
    red[5:7, 5:7] = (255, 0, 0)
    assert grey_of_colour(red)[0].min() == 76


def test_arrays_of_every_layout() -> None:
    for array in (CROP, CROP[..., None], CROP[None], CROP[None, None], np.dstack([CROP] * 3), np.stack([CROP] * 3)):
        assert np.array_equal(decoded(array), CROP), array.shape
    assert np.array_equal(decoded(CROP.astype(np.float64) / 255), CROP)
    assert np.array_equal(decoded(CROP.astype(">u2")), CROP)
    assert np.array_equal(decoded(Image.fromarray(CROP)), CROP)


@pytest.mark.parametrize("shape", [(40, 30, 2), (5, 40, 30), (2, 1, 40, 30), (7,), (2, 40, 30, 3)])
def test_other_arrays_are_named_by_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"is an array of shape \(.*allowed are \(H, W\)"):
        decode_plane(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("source", [None, 3.5, [1, 2], np.array([["a"]])])
def test_what_is_no_picture_at_all_is_named_by_its_type(source: Any) -> None:
    with pytest.raises(ImageError, match="allowed are"):
        decode_plane(source)


def test_a_stack_asks_for_a_page_and_gives_it() -> None:
    for options in ({"imagej": True}, {"ome": True}, {"photometric": "minisblack", "metadata": None}):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.stack([CROP, 255 - CROP, CROP // 2]), **options)  # type: ignore[arg-type]
        with pytest.raises(ImageError, match=r"is a stack of 3 planes. Name one with --page 1 to 3"):
            decode_plane(buffer.getvalue())
        assert np.array_equal(decoded(buffer.getvalue(), page=2), 255 - CROP)
        with pytest.raises(ImageError, match=r"--page 4 is not one of them. Allowed: 1 to 3"):
            decode_plane(buffer.getvalue(), page=4)


def test_frames_of_a_gif_are_a_stack_and_those_of_a_phone_are_not() -> None:
    frames = [Image.fromarray(CROP), Image.fromarray(255 - CROP)]
    for kind in ("GIF", "MPO"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        if kind == "GIF":
            with pytest.raises(ImageError, match="is a stack of 2 frames"):
                decode_plane(buffer.getvalue())
            assert np.array_equal(decoded(buffer.getvalue(), page=1), CROP)
        else:
            assert np.abs(decoded(buffer.getvalue()).astype(int) - CROP).mean() < 4


def test_a_thumbnail_before_the_picture_is_left_out() -> None:
    from supcam.resaving import KINDS

    plane = decode_plane(KINDS["thumbnail_first"].save(CROP, np.random.default_rng(0)))
    assert np.array_equal(plane.values, CROP)
    assert plane.notes == ("1 thumbnail left out",)


def test_two_channels_are_planes() -> None:
    content = tiff(np.stack([CROP, 255 - CROP]), planarconfig="separate", metadata=None)
    assert np.array_equal(decoded(content, page=2), 255 - CROP)


def test_what_phones_write_behind_a_jpeg_is_passed_over_and_a_zip_is_not() -> None:
    content = encode(CROP, "JPEG", quality=95)
    assert np.array_equal(decoded(content + b"SEFT" + bytes(40) + b"Samsung"), decoded(content))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.txt", "a")
    for kind in ("JPEG", "PNG", "TIFF"):
        with pytest.raises(ImageError, match="carries a zip behind the image"):
            decode_plane(encode(CROP, kind) + archive.getvalue())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04abcdefgh", "is a zip. Unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
        (b"outs:\n- md5: 123", "DVC pointer.*dvc pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (bytes(128) + b"DICM" + bytes(50), "is DICOM"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), "is JPEG 2000"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "is HEIC"),
        (b"path,type\na.png,instance\n", "is text, not a picture"),
        (bytes(500), "zero bytes only"),
        (b"\x01\x02\x03\x04\x99\xff", "is not an image of a known format"),
        (encode(CROP)[:-30], "is truncated"),
        (encode(CROP, "JPEG")[:-60], "is truncated"),
        (encode(CROP, "TIFF")[:-60], "is truncated|is damaged"),
        (tiff(CROP)[: CROP.size // 2], "is truncated|is damaged"),
        (encode(np.zeros((2, 9), np.uint8)), "is 9 x 2 pixels; allowed are sides of 3 to"),
    ],
)
def test_other_content_is_named_by_what_it_is_in_one_line(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        decode_plane(content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("image ")


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a named pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ImageError, match=f"is {kind}, not a file"):
            decode_plane(path)
    with pytest.raises(ImageError, match="cannot be opened: No such file"):
        decode_plane(tmp_path / "missing.png")


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as stream:
        stream.truncate(2**27 + 1)
    with pytest.raises(ImageError, match="holds 134217729 bytes; allowed are at most"):
        decode_plane(path)


def test_names_that_are_not_utf8_are_shown_as_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"M\xfcller.png")
    path = tmp_path / name
    path.write_bytes(encode(CROP))
    assert np.array_equal(decoded(path), CROP)
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"M\\xfcller.png is empty") as caught:
        decode_plane(path)
    assert str(caught.value).encode("utf-8")
    assert shown_path("Müller.png") == "Müller.png"


def test_transparency_that_hides_everything_is_left_out() -> None:
    hidden = np.dstack([CROP, CROP, CROP, np.zeros_like(CROP)])
    assert np.array_equal(decoded(encode(hidden)), CROP)
    cut_out = np.dstack([np.where(CROP < 250, CROP, 0)] * 3 + [np.where(CROP < 250, 255, 0)]).astype(np.uint8)
    assert np.array_equal(decoded(encode(cut_out)), np.where(CROP < 250, CROP, 255))


@pytest.mark.skipif(not SINGLE.is_dir(), reason="the trials are not part of the project")
@pytest.mark.parametrize("path", sorted(SINGLE.glob("*")) if SINGLE.is_dir() else [], ids=lambda path: path.name)
def test_trials_are_read_or_refused_in_one_line(path: Path) -> None:
    try:
        plane = decode_plane(path)
    except ImageError as error:
        assert "\n" not in str(error)
        assert path.name in str(error)
        return
    assert plane.values.ndim == 2
