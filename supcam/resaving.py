"""Crops as other programs, cameras and people save them: each kind turns one clean crop into the bytes of a file."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from supcam.serving.bodies import dilated

Crop = NDArray[np.uint8]
Expected = Literal["same", "same or flagged"]


@dataclass(frozen=True)
class Kind:
    """One way to save a crop again.

    Attributes:
        save: Bytes of the file for a crop (H, W) on white 255 and a generator for noise.
        suffix: Ending of the file's name.
        expected: What an answer must be: that of the crop itself, or else held back.
        family: What it changes.
    """

    save: Callable[[Crop, np.random.Generator], bytes]
    suffix: str
    expected: Expected = "same"
    family: str = ""


def padded(crop: Crop, width: int, value: int = 255) -> Crop:
    """The crop with ``width`` pixels of ``value`` on each side."""
    return np.pad(crop, width, constant_values=value)


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """Bytes of a TIFF; options as of :func:`tifffile.imwrite`."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **({"photometric": "minisblack"} | options))
    return stream.getvalue()


def encoded(values: NDArray[np.uint8], file_format: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """Bytes of a picture by Pillow, converted to ``mode`` first."""
    image = Image.fromarray(values)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, file_format, **options)
    return stream.getvalue()


def _scaled(white: float, offset: float = 0.0, kind: str = "uint16") -> Callable[[Crop, Any], bytes]:
    def save(crop: Crop, _: Any) -> bytes:
        values = crop / 255 * white + offset
        return tiff((np.rint(values) if np.dtype(kind).kind in "iu" else values).astype(kind))

    return save


def _hot(white: int, pixels: int) -> Callable[[Crop, np.random.Generator], bytes]:
    def save(crop: Crop, random: np.random.Generator) -> bytes:
        values = np.rint(crop / 255 * white).astype(np.uint16)
        paper = np.argwhere(crop == 255)
        for row, column in paper[random.choice(len(paper), min(pixels, len(paper)), replace=False)]:
            values[row, column] = 65535
        return tiff(values)

    return save


def _inverted_deep(white: int) -> Callable[[Crop, Any], bytes]:
    return lambda crop, _: tiff(np.rint((255 - crop) / 255 * white).astype(np.uint16))


def _colours16(white: int, **options: Any) -> Callable[[Crop, Any], bytes]:
    def save(crop: Crop, _: Any) -> bytes:
        grey = np.rint(crop / 255 * white).astype(np.uint16)
        separate = options.get("planarconfig") == "separate"
        return tiff(np.stack([grey] * 3, axis=0 if separate else -1), photometric="rgb", **options)

    return save


def _png16_colours(white: int) -> Callable[[Crop, Any], bytes]:
    """16-bit RGB PNG, written by hand: Pillow cannot."""

    def save(crop: Crop, _: Any) -> bytes:
        import struct
        import zlib

        grey = np.rint(crop / 255 * white).astype(np.uint16)
        rows = np.stack([grey] * 3, axis=-1).astype(">u2").reshape(len(crop), -1).view(np.uint8)
        data = b"".join(b"\0" + row.tobytes() for row in rows)

        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        header = struct.pack(">IIBBBBB", crop.shape[1], crop.shape[0], 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + parts

    return save


def _dye(red: float, green: float, blue: float) -> Callable[[Crop, Any], bytes]:
    def save(crop: Crop, _: Any) -> bytes:
        shining = (255 - crop).astype(np.float64)
        return encoded(np.rint(shining[..., np.newaxis] * (red, green, blue)).astype(np.uint8))

    return save


def _paper(level: int, noise: float = 0.0, margin: int = 0) -> Callable[[Crop, np.random.Generator], bytes]:
    def save(crop: Crop, random: np.random.Generator) -> bytes:
        values = padded(crop, margin) * (level / 255) + (random.normal(0, noise, np.add(crop.shape, 2 * margin)))
        return encoded(np.clip(np.rint(values), 0, 255).astype(np.uint8))

    return save


def _speckled(share: float) -> Callable[[Crop, np.random.Generator], bytes]:
    def save(crop: Crop, random: np.random.Generator) -> bytes:
        out = padded(crop, 12)
        out[random.random(out.shape) < share] = 0
        return encoded(out)

    return save


def _shaded(depth: float, shape: Literal["side", "corner", "round"]) -> Callable[[Crop, Any], bytes]:
    def save(crop: Crop, _: Any) -> bytes:
        y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in crop.shape), indexing="ij")
        fall = {"side": x, "corner": (x + y) / 2, "round": 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)}[shape]
        return encoded(np.rint(crop * (1 - depth * fall)).astype(np.uint8))

    return save


def _dark_uneven(crop: Crop, random: np.random.Generator) -> bytes:
    """Bright on dark, with a glow to one side and noise, as a fluorescence camera gives it."""
    out = padded(crop, 12) * np.linspace(0.95, 0.8, crop.shape[1] + 24)
    return encoded(255 - np.clip(np.rint(out + random.normal(0, 2, out.shape)), 0, 255).astype(np.uint8))


def _framed(width: int, level: int, inside: int = 1, dark: bool = False) -> Callable[[Crop, Any], bytes]:
    def save(crop: Crop, _: Any) -> bytes:
        out = 255 - padded(crop, inside) if dark else padded(crop, inside)
        return encoded(padded(out, width, level))

    return save


def _cut_out(level: int, grown: int = 0) -> Callable[[Crop, Any], bytes]:
    def save(crop: Crop, _: Any) -> bytes:
        body = padded(crop, 4) < 250
        for _step in range(grown):
            body = dilated(body, square=False)
        return encoded(np.where(body, padded(crop, 4), level).astype(np.uint8))

    return save


def _cut_out_tight(level: int) -> Callable[[Crop, Any], bytes]:
    return lambda crop, _: encoded(np.where(crop < 250, crop, level).astype(np.uint8))


def _cut_out_dark(level: int) -> Callable[[Crop, Any], bytes]:
    return lambda crop, _: encoded(np.where(crop < 250, 255 - crop, level).astype(np.uint8))


def _cut_out_nan(crop: Crop, _: Any) -> bytes:
    return tiff(np.where(crop < 250, crop / 255, np.nan).astype(np.float32))


def _drawn(draw: Callable[[ImageDraw.ImageDraw, int, int], None], mode: str = "L", margin: int = 14) -> Any:
    def save(crop: Crop, _: Any) -> bytes:
        image = Image.fromarray(padded(crop, margin)).convert(mode)
        draw(ImageDraw.Draw(image), image.width, image.height)
        return encoded(np.asarray(image))

    return save


def _bar(thick: int, level: int) -> Any:
    return _drawn(lambda draw, w, h: draw.rectangle((4, h - 5 - thick, 4 + w // 3, h - 5), fill=level))


def _text(words: str, fill: Any, mode: str = "L") -> Any:
    return _drawn(lambda draw, w, h: draw.text((2, 1), words, fill=fill), mode)


def _spot(side: int, level: int, margin: int = 25) -> Any:
    return _drawn(lambda draw, w, h: draw.rectangle((3, 3, 2 + side, 2 + side), fill=level), margin=margin)


def _dead_corner(crop: Crop, _: Any) -> bytes:
    out = padded(crop, 25)
    out[0, 0] = 0
    return encoded(out)


def _sliver(crop: Crop, _: Any) -> bytes:
    """A neighbour's end, with its own greys, cut by the upper edge."""
    out = padded(crop, 25)
    rows, columns = min(9, len(crop) // 3), min(28, crop.shape[1])
    out[:rows, 2 : 2 + columns] = np.minimum(np.sort(crop[:rows, :columns], axis=0)[::-1] // 2 + 90, 250)
    return encoded(out)


def _gamma(power: float) -> Callable[[Crop, Any], bytes]:
    return lambda crop, _: encoded(np.rint(255 * (crop / 255) ** power).astype(np.uint8))


def _jpeg(quality: int, mode: str | None = None, **options: Any) -> Callable[[Crop, Any], bytes]:
    return lambda crop, _: encoded(crop, "JPEG", mode, quality=quality, **options)


def _turned_exif(crop: Crop, _: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(np.ascontiguousarray(np.rot90(crop)), "PNG", exif=exif)


def _alpha(crop: Crop, cover: NDArray[np.uint8], colour: int | None = None) -> bytes:
    grey = crop if colour is None else np.where(cover > 0, crop, colour)
    return encoded(np.dstack([grey, grey, grey, cover]).astype(np.uint8))


def _palette(crop: Crop, _: Any) -> bytes:
    image = Image.fromarray(255 - crop)
    image.putpalette([255 - level for level in range(256) for _channel in range(3)])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _thumbnail_first(crop: Crop, _: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(np.ascontiguousarray(crop[::8, ::8]), photometric="minisblack", subfiletype=1)
        writer.write(crop, photometric="minisblack")
    return stream.getvalue()


SAME_KINDS: dict[str, Kind] = {
    # Depths and white levels.
    "u16_white20000": Kind(_scaled(20000), ".tif", family="depth"),
    "u16_white30000": Kind(_scaled(30000), ".tif", family="depth"),
    "u16_white65535": Kind(_scaled(65535), ".tif", family="depth"),
    "u16_white4200": Kind(_scaled(4200), ".tif", family="depth"),
    "u16_white900": Kind(_scaled(900), ".tif", family="depth"),
    "u12_white2000": Kind(_scaled(1900), ".tif", family="depth"),
    "u12": Kind(_scaled(4095), ".tif", family="depth"),
    "u14_white12000": Kind(_scaled(12000), ".tif", family="depth"),
    "u10": Kind(_scaled(1023), ".tif", family="depth"),
    "u32": Kind(_scaled(2**32 - 1, kind="uint32"), ".tif", family="depth"),
    "i8": Kind(_scaled(255, -128, "int8"), ".tif", family="depth"),
    "i16": Kind(_scaled(65535, -32768, "int16"), ".tif", family="depth"),
    "i16_12bit": Kind(_scaled(4095, -2048, "int16"), ".tif", family="depth"),
    "scanr_offset": Kind(_scaled(4095, 32768), ".tif", family="depth"),
    "scanr_offset_14bit": Kind(_scaled(16383, 32768), ".tif", family="depth"),
    "f16": Kind(_scaled(1, kind="float16"), ".tif", family="depth"),
    "f32_over1": Kind(_scaled(1.002, kind="float32"), ".tif", family="depth"),
    "f32_255": Kind(_scaled(255, kind="float32"), ".tif", family="depth"),
    "f64_white0.6": Kind(_scaled(0.6, kind="float64"), ".tif", family="depth"),
    "u16_hotpixel": Kind(_hot(4095, 1), ".tif", family="hot"),
    "u16_hotpixels3": Kind(_hot(20000, 3), ".tif", family="hot"),
    "u16_zlib": Kind(lambda c, _: tiff((c * np.uint16(257)), compression="zlib"), ".tif", family="depth"),
    # Colours.
    "rgb16_12bit": Kind(_colours16(4095), ".tif", family="colour"),
    "rgb16_white20000": Kind(_colours16(20000), ".tif", family="colour"),
    "u16_planar_rgb": Kind(_colours16(65535, planarconfig="separate"), ".tif", family="colour"),
    "u16_planar_rgb_12bit": Kind(_colours16(4095, planarconfig="separate"), ".tif", family="colour"),
    "png16_rgb_12bit": Kind(_png16_colours(4095), ".png", family="colour"),
    "rgb8": Kind(lambda c, _: encoded(np.dstack([c] * 3)), ".png", family="colour"),
    "palette": Kind(_palette, ".png", family="colour"),
    "gif": Kind(lambda c, _: encoded(c, "GIF"), ".gif", family="colour"),
    "bmp": Kind(lambda c, _: encoded(c, "BMP"), ".bmp", family="colour"),
    "rgba_cutout": Kind(lambda c, _: _alpha(c, (c < 250).astype(np.uint8) * 255, 0), ".png", family="alpha"),
    "rgba_alpha0": Kind(lambda c, _: _alpha(c, np.zeros_like(c)), ".png", family="alpha"),
    "rgba_ink": Kind(lambda c, _: _alpha(np.zeros_like(c), 255 - c), ".png", family="alpha"),
    # Polarity.
    "tiff_minwhite": Kind(lambda c, _: tiff(255 - c, photometric="miniswhite"), ".tif", family="polarity"),
    "minwhite16": Kind(
        lambda c, _: tiff((255 - c) * np.uint16(257), photometric="miniswhite"), ".tif", family="polarity"
    ),
    "inverted": Kind(lambda c, _: encoded(255 - c), ".png", family="polarity"),
    "inverted_u16": Kind(_inverted_deep(65535), ".tif", family="polarity"),
    "inverted_u12": Kind(_inverted_deep(4095), ".tif", family="polarity"),
    # Frames and cut-outs.
    "frame1_black": Kind(_framed(1, 0), ".png", family="frame"),
    "frame1_black_tight": Kind(_framed(1, 0, 0), ".png", family="frame"),
    "frame3_black": Kind(_framed(3, 0, 2), ".png", family="frame"),
    "frame2_grey": Kind(_framed(2, 128, 3), ".png", family="frame"),
    "frame1_pale": Kind(_framed(1, 225, 4), ".png", family="frame"),
    "frame_pad_grey": Kind(_framed(1, 192, 4), ".png", family="frame"),
    "pad8_grey": Kind(_framed(8, 192, 0), ".png", family="frame"),
    "pad20_grey": Kind(_framed(20, 128, 1), ".png", family="frame"),
    "inverted_frame": Kind(_framed(1, 255, 1, dark=True), ".png", family="frame"),
    "inverted_frame3_grey": Kind(_framed(3, 128, 2, dark=True), ".png", family="frame"),
    "masked_black": Kind(_cut_out_tight(0), ".png", family="cutout"),
    "masked_black_pad": Kind(_cut_out(0), ".png", family="cutout"),
    "masked_black_wide": Kind(_cut_out(0, 2), ".png", family="cutout"),
    "masked_grey": Kind(_cut_out_tight(128), ".png", family="cutout"),
    "masked_grey_pad": Kind(_cut_out(100), ".png", family="cutout"),
    "masked_nan": Kind(_cut_out_nan, ".tif", family="cutout"),
    "dark_masked_white": Kind(_cut_out_dark(255), ".png", family="cutout"),
    # What lies beside the body.
    "scalebar": Kind(_bar(2, 0), ".png", family="drawing"),
    "scalebar_thick": Kind(_bar(4, 30), ".png", family="drawing"),
    "text_label": Kind(_text("13q", 7), ".png", family="drawing"),
    "text_long": Kind(_text("c12", 90), ".png", family="drawing"),
    "text_red": Kind(_text("13q", (220, 20, 20), "RGB"), ".png", family="drawing"),
    "dust_speck": Kind(_spot(3, 90), ".png", family="dirt"),
    "dust_large": Kind(_spot(5, 60), ".png", family="dirt"),
    "dead_pixel_corner": Kind(_dead_corner, ".png", family="dirt"),
    "dead_pixels": Kind(_speckled(0.0005), ".png", family="dirt"),
    "thumbnail_first": Kind(_thumbnail_first, ".tif", family="stack"),
    "exif_png": Kind(_turned_exif, ".png", family="exif"),
}

DOUBTFUL_KINDS: dict[str, Kind] = {
    "dapi_blue": Kind(_dye(0, 0, 1), ".png", "same or flagged", "dye"),
    "dapi_cyan": Kind(_dye(0.1, 0.8, 1), ".png", "same or flagged", "dye"),
    "dye_green": Kind(_dye(0, 1, 0), ".png", "same or flagged", "dye"),
    "bg251": Kind(_paper(251), ".png", "same or flagged", "paper"),
    "bg235": Kind(_paper(235), ".png", "same or flagged", "paper"),
    "bg200": Kind(_paper(200), ".png", "same or flagged", "paper"),
    "bg120": Kind(_paper(120), ".png", "same or flagged", "paper"),
    "bg70": Kind(_paper(70), ".png", "same or flagged", "paper"),
    "bg245_noise2": Kind(_paper(245, 2), ".png", "same or flagged", "noise"),
    "bg200_noise4": Kind(_paper(200, 4), ".png", "same or flagged", "noise"),
    "noise1": Kind(_paper(255, 1), ".png", "same or flagged", "noise"),
    "noise3_pad30": Kind(_paper(255, 3, 30), ".png", "same or flagged", "noise"),
    "noise5_pad15": Kind(_paper(240, 5, 15), ".png", "same or flagged", "noise"),
    "shading15": Kind(_shaded(0.15, "side"), ".png", "same or flagged", "shading"),
    "shading30": Kind(_shaded(0.30, "corner"), ".png", "same or flagged", "shading"),
    "vignette20": Kind(_shaded(0.20, "round"), ".png", "same or flagged", "shading"),
    "dark_uneven": Kind(_dark_uneven, ".png", "same or flagged", "shading"),
    "gamma2.2": Kind(_gamma(2.2), ".png", "same or flagged", "gamma"),
    "gamma0.6": Kind(_gamma(0.6), ".png", "same or flagged", "gamma"),
    "neighbour_sliver": Kind(_sliver, ".png", "same or flagged", "sliver"),
    "sliver_flat": Kind(
        _drawn(lambda draw, w, h: draw.rectangle((0, 0, w // 3, 8), fill=110), margin=25),
        ".png",
        "same or flagged",
        "sliver",
    ),
    "jpeg75": Kind(_jpeg(75), ".jpg", "same or flagged", "jpeg"),
    "jpeg50_pad": Kind(lambda c, _: encoded(padded(c, 10), "JPEG", quality=50), ".jpg", "same or flagged", "jpeg"),
    "cmyk_jpeg95": Kind(_jpeg(95, "CMYK"), ".jpg", "same or flagged", "jpeg"),
    "webp": Kind(lambda c, _: encoded(c, "WEBP", quality=85), ".webp", "same or flagged", "jpeg"),
}

KINDS: dict[str, Kind] = SAME_KINDS | DOUBTFUL_KINDS
