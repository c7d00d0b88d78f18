"""More ways in which a crop is saved again, with sizes, places, levels and colours drawn at random for every crop."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from supcam.resaving import Crop, Expected, Kind, encoded, padded, tiff
from supcam.serving.bodies import dilated

Random = np.random.Generator
# One crop as a picture: grey (H, W) or colours (H, W, 3 or 4), 8 bits.
Change = Callable[[Crop, Random], NDArray[np.uint8]]
Number = float | tuple[float, float]

_SIDES = ("top", "bottom", "left", "right")


def _png(change: Change, expected: Expected = "same", family: str = "") -> Kind:
    return Kind(lambda crop, random: encoded(change(crop, random)), ".png", expected, family)


def _inverted(change: Change) -> Change:
    return lambda crop, random: 255 - change(crop, random)


def _rounded(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def _one_of(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


# Depths ---------------------------------------------------------------------------------------------------------------


def _deep(kind: str, whites: tuple[float, float], blacks: tuple[float, float] = (0, 0), **options: Any) -> Kind:
    """Values from a random black to a random white, as cameras give them that nobody calibrated."""

    def save(crop: Crop, random: Random) -> bytes:
        white = float(np.exp(random.uniform(*np.log(whites)))) if whites[0] > 0 else whites[1]
        black = random.uniform(*blacks) * white
        values = black + crop / 255 * (white - black)
        return tiff((np.rint(values) if np.dtype(kind).kind in "iu" else values).astype(kind), **options)

    return Kind(save, ".tif", "same or flagged" if blacks[1] > 0.1 else "same", "depth")


def _deep_colours(whites: tuple[float, float], **options: Any) -> Kind:
    def save(crop: Crop, random: Random) -> bytes:
        grey = np.rint(crop / 255 * random.uniform(*whites)).astype(np.uint16)
        axis = 0 if options.get("planarconfig") == "separate" else -1
        return tiff(np.stack([grey] * 3, axis=axis), photometric="rgb", **options)

    return Kind(save, ".tif", "same", "depth")


def _min_is_white(bits: int, **options: Any) -> Kind:
    """White at 0, in 16 bits of which only some are used."""

    def save(crop: Crop, _: Random) -> bytes:
        values = np.rint((255 - crop) / 255 * (2**bits - 1)).astype(np.uint16)
        return tiff(values, photometric="miniswhite", **options)

    return Kind(save, ".tif", "same", "depth")


# Paper, tone and light ------------------------------------------------------------------------------------------------


def _paper(levels: tuple[float, float], margin: int = 0) -> Change:
    return lambda crop, random: _rounded(padded(crop, margin) * (random.uniform(*levels) / 255))


def _compressed(black: tuple[float, float], white: tuple[float, float]) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        low, high = random.uniform(*black), random.uniform(*white)
        return _rounded(low + crop / 255 * (high - low))

    return change


def _gamma(low: float, high: float) -> Change:
    return lambda crop, random: _rounded(255 * (crop / 255) ** random.uniform(low, high))


def _gradient(depth: tuple[float, float], margin: int = 0) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        out = padded(crop, margin)
        angle = random.uniform(0, 2 * np.pi)
        y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in out.shape), indexing="ij")
        fall = np.cos(angle) * x + np.sin(angle) * y
        fall = (fall - fall.min()) / np.ptp(fall)
        return _rounded(out * (1 - random.uniform(*depth) * fall))

    return change


def _vignette(depth: tuple[float, float], margin: int = 0) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        out = padded(crop, margin)
        y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in out.shape), indexing="ij")
        shift = random.uniform(-0.3, 0.3, 2)
        fall = ((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / 2
        return _rounded(out * (1 - random.uniform(*depth) * fall))

    return change


def _noisy(sigma: tuple[float, float], margin: int = 0, level: Number = 255.0) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        white = random.uniform(*level) if isinstance(level, tuple) else level
        out = padded(crop, margin) * (white / 255)
        return _rounded(out + random.normal(0, random.uniform(*sigma), out.shape))

    return change


def _noisy_in_light(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """Uneven light, then the camera's noise."""
    out = _gradient((0.05, 0.2), 12)(crop, random) * random.uniform(0.7, 0.98)
    return _rounded(out + random.normal(0, random.uniform(1, 3), out.shape))


def _sharpened(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """Unsharp mask: pale halos around the body, on grey paper."""
    image = Image.fromarray(_rounded(padded(crop, 6) * (225 / 255)))
    return np.asarray(image.filter(ImageFilter.UnsharpMask(random.uniform(1, 2), int(random.uniform(60, 150)), 0)))


def _softened(crop: Crop, random: Random) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(padded(crop, 3)).filter(ImageFilter.GaussianBlur(random.uniform(0.4, 0.8))))


# Colours --------------------------------------------------------------------------------------------------------------


def _dye(colour: tuple[float, float, float], ground: float = 0.0) -> Change:
    """Bright on dark, in one colour; ``ground`` is the glow of the background in grey levels."""
    return lambda crop, _: _rounded(
        ground * np.array(colour) + (255 - crop)[..., np.newaxis] * np.array(colour) * ((255 - ground) / 255)
    )


def _cast(paper: tuple[float, float, float], body: tuple[float, float, float] = (0, 0, 0)) -> Change:
    """Dark on bright, between the colour of the body and that of the paper."""
    low, high = np.array(body), np.array(paper)
    return lambda crop, _: _rounded(low + crop[..., np.newaxis] / 255 * (high - low))


def _random_cast(crop: Crop, random: Random) -> NDArray[np.uint8]:
    return _cast(tuple(random.uniform(200, 255, 3)))(crop, random)


def _deep_dye(crop: Crop, random: Random) -> bytes:
    white = int(random.uniform(3000, 65535))
    grey = np.rint((255 - crop) / 255 * white).astype(np.uint16)
    colours = np.zeros((*crop.shape, 3), np.uint16)
    colours[..., int(random.integers(3))] = grey
    return tiff(colours, photometric="rgb")


# Frames ---------------------------------------------------------------------------------------------------------------


def _framed(
    widths: tuple[int, int], levels: tuple[float, ...], inside: tuple[int, int] = (0, 4), sides: int = 4
) -> Change:
    """A frame on some of the sides."""

    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        out = padded(crop, int(random.integers(inside[0], inside[1] + 1)))
        width, level = int(random.integers(widths[0], widths[1] + 1)), _one_of(random, levels)
        chosen = random.permutation(4)[:sides]
        lines = [width * (side in chosen) for side in range(4)]
        return np.pad(out, ((lines[0], lines[1]), (lines[2], lines[3])), constant_values=level)

    return change


def _double_frame(crop: Crop, random: Random) -> NDArray[np.uint8]:
    out = padded(crop, int(random.integers(1, 5)))
    for level in (0, 255, int(random.integers(0, 130))):
        out = padded(out, int(random.integers(1, 3)), level)
    return out


def _rounded_frame(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """A frame whose inner corners are round."""
    out = padded(crop, 6)
    width, level = int(random.integers(2, 6)), int(_one_of(random, (0, 60, 128)))
    out = padded(out, width, level)
    inner = Image.new("L", (out.shape[1], out.shape[0]), 0)
    box = (width, width, out.shape[1] - width - 1, out.shape[0] - width - 1)
    ImageDraw.Draw(inner).rounded_rectangle(box, 5, fill=255)
    return np.where(np.asarray(inner) > 0, out, level).astype(np.uint8)


def _coloured_frame(crop: Crop, random: Random) -> NDArray[np.uint8]:
    out = padded(crop, 3)
    width = int(random.integers(1, 4))
    framed = np.empty((out.shape[0] + 2 * width, out.shape[1] + 2 * width, 3), np.uint8)
    framed[:] = _one_of(random, ((220, 20, 20), (20, 120, 20), (30, 30, 200), (250, 220, 0)))
    framed[width:-width, width:-width] = out[..., np.newaxis]
    return framed


def _drawn_box(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """A thin box drawn around the body with paper on both sides of it."""
    image = Image.fromarray(padded(crop, 12))
    at = int(random.integers(2, 6))
    ImageDraw.Draw(image).rectangle(
        (at, at, image.width - at - 1, image.height - at - 1), outline=int(_one_of(random, (0, 90, 160)))
    )
    return np.asarray(image)


def _soft_frame(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """A frame with a line in between, as resampling leaves it."""
    level = int(_one_of(random, (0, 40, 128)))
    out = padded(padded(crop, 2), 1, (level + 255) // 2)
    return padded(out, int(random.integers(1, 4)), level)


# Cut-outs -------------------------------------------------------------------------------------------------------------


def _cut_out(level: float, margin: tuple[int, int] = (0, 6), grown: int = 0, dark: bool = False) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        around = padded(crop, int(random.integers(margin[0], margin[1] + 1)))
        body = around < 250
        for _ in range(int(random.integers(grown + 1))):
            body = dilated(body, square=False)
        return np.where(body, 255 - around if dark else around, level).astype(np.uint8)

    return change


def _resampled_cut_out(method: int, level: float = 0, sizes: tuple[float, float] = (0.6, 1.9)) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        image = Image.fromarray(_cut_out(level, (2, 8))(crop, random))
        scale = random.uniform(*sizes)
        size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
        return np.asarray(image.resize(size, Image.Resampling(method)))

    return change


def _turned_cut_out(level: int) -> Change:
    """A cut-out turned by some degrees, its corners filled with the level around it."""

    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        image = Image.fromarray(_cut_out(level, (3, 8))(crop, random))
        turn = random.uniform(-6, 6)
        return np.asarray(image.rotate(turn, Image.Resampling.BILINEAR, expand=True, fillcolor=level))

    return change


def _feathered_cut_out(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """The mask of the cut-out is soft: its rim fades into black within two pixels."""
    around = padded(crop, 6)
    body = Image.fromarray(np.where(dilated(around < 250, square=False), 255, 0).astype(np.uint8))
    cover = np.asarray(body.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 1.0)))) / 255
    return _rounded(around * cover)


def _blue_cut_out(crop: Crop, _: Random) -> NDArray[np.uint8]:
    around = padded(crop, 3)
    colours = np.dstack([around] * 3)
    colours[around >= 250] = (0, 0, 255)
    return colours


def _wide_cut_out(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """A box of paper around the body, far larger black around it."""
    out = padded(crop, int(random.integers(1, 4)))
    widths = random.integers(6, 30, 4)
    return np.pad(out, ((widths[0], widths[1]), (widths[2], widths[3])))


def _turned_crop(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """The whole crop turned, black in the corners."""
    image = Image.fromarray(padded(crop, 4))
    return np.asarray(image.rotate(random.uniform(3, 12), Image.Resampling.BILINEAR, expand=True, fillcolor=0))


# What stands beside the body ------------------------------------------------------------------------------------------


def _corner(random: Random, out: Crop, height: int, width: int) -> tuple[int, int]:
    """Row and column at which something of this size stands near one of the four corners."""
    rows = (int(random.integers(1, 4)), out.shape[0] - height - int(random.integers(1, 4)))
    columns = (int(random.integers(1, 4)), out.shape[1] - width - int(random.integers(1, 4)))
    return _one_of(random, rows), _one_of(random, columns)


def _bar(crop: Crop, random: Random) -> NDArray[np.uint8]:
    out = padded(crop, 14)
    thick, long = int(random.integers(1, 7)), int(random.uniform(0.2, 0.6) * out.shape[1])
    row, column = _corner(random, out, thick, long)
    out[row : row + thick, column : column + long] = int(random.integers(0, 120))
    return out


def _text(crop: Crop, random: Random) -> NDArray[np.uint8]:
    words = _one_of(random, ("13q", "chr 7", "46,XY", "#12", "a", "c12 / 3"))
    image = Image.fromarray(padded(crop, 15)).convert("RGB")
    colour = _one_of(random, ((0, 0, 0), (200, 0, 0), (0, 0, 200), (0, 130, 0), (120, 120, 120), (240, 150, 0)))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), words)
    row, column = _corner(random, np.asarray(image.convert("L")), int(bottom - top) + 2, int(right - left))
    draw.text((column, row - top), words, fill=colour)
    return np.asarray(image)


def _arrow(crop: Crop, random: Random) -> NDArray[np.uint8]:
    image = Image.fromarray(padded(crop, 16)).convert("RGB")
    draw = ImageDraw.Draw(image)
    colour = _one_of(random, ((220, 0, 0), (0, 0, 0), (0, 0, 220)))
    thick = int(random.integers(1, 4))
    draw.line((3, 3, 11, 11), fill=colour, width=thick)
    draw.polygon(((13, 13), (7, 12), (12, 7)), fill=colour)
    return np.asarray(image)


def _specks(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """Round dust of 1 to 6 pixels with soft rims, in the margin."""
    out = padded(crop, 18).astype(np.float64)
    y, x = np.mgrid[: out.shape[0], : out.shape[1]]
    for _ in range(int(random.integers(1, 5))):
        radius = random.uniform(0.5, 3)
        side = _one_of(random, _SIDES)
        along = random.uniform(5, (out.shape[1] if side in ("top", "bottom") else out.shape[0]) - 5)
        deep = random.uniform(4, 10)
        row = {"top": deep, "bottom": out.shape[0] - 1 - deep}.get(side, along)
        column = {"left": deep, "right": out.shape[1] - 1 - deep}.get(side, along)
        dark = np.clip(radius + 0.5 - np.hypot(y - row, x - column), 0, 1) * random.uniform(80, 230)
        out -= dark
    return _rounded(out)


def _hair(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """A thin curved fibre along one side."""
    out = padded(crop, 16)
    image = Image.fromarray(out)
    bend = random.uniform(4, 9)
    steps = np.linspace(0, 1, 24)
    points = [(int(step * (image.width - 1)), int(3 + bend * np.sin(np.pi * step))) for step in steps]
    ImageDraw.Draw(image).line(points, fill=int(random.integers(60, 200)), width=int(random.integers(1, 3)))
    return np.asarray(image)


def _dead_line(level: float, lines: int = 1) -> Change:
    """Dead or hot rows and columns of the camera, anywhere."""

    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        out = padded(crop, 8)
        for _ in range(lines):
            if random.random() < 0.5:
                out[int(random.integers(len(out)))] = level
            else:
                out[:, int(random.integers(out.shape[1]))] = level
        return out

    return change


def _dead_edge_line(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """A dead row or column beside the body."""
    turn = int(random.integers(4))
    out = np.rot90(padded(crop, 8), turn).copy()
    out[int(random.integers(1, 6))] = int(_one_of(random, (0, 60, 128)))
    return np.ascontiguousarray(np.rot90(out, -turn))


def _sliver(crop: Crop, random: Random) -> NDArray[np.uint8]:
    """The end of a neighbour, cut by one side."""
    turn = int(random.integers(4))
    out = np.rot90(padded(crop, 24), turn).copy()
    piece = np.rot90(crop, int(random.integers(4)))
    rows, columns = min(10, len(piece) // 3), min(26, piece.shape[1], out.shape[1] - 4)
    start = int(random.integers(2, max(3, out.shape[1] - columns - 1)))
    out[:rows, start : start + columns] = piece[len(piece) - rows :, :columns]
    return np.ascontiguousarray(np.rot90(out, -turn))


def _hot_pixels(level: int) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        out = padded(crop, 10)
        for _ in range(int(random.integers(1, 6))):
            out[int(random.integers(len(out))), int(random.integers(out.shape[1]))] = level
        return out

    return change


# Files ----------------------------------------------------------------------------------------------------------------


def _jpeg(low: int, high: int, margin: int = 0, mode: str | None = None) -> Kind:
    def save(crop: Crop, random: Random) -> bytes:
        return encoded(padded(crop, margin), "JPEG", mode, quality=int(random.integers(low, high + 1)))

    return Kind(save, ".jpg", "same or flagged", "jpeg")


def _resized(low: float, high: float, method: int = Image.Resampling.BICUBIC) -> Change:
    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        image = Image.fromarray(crop)
        scale = random.uniform(low, high)
        size = (max(6, round(image.width * scale)), max(6, round(image.height * scale)))
        return np.asarray(image.resize(size, Image.Resampling(method)))

    return change


def _resized_jpeg(crop: Crop, random: Random) -> bytes:
    return encoded(_resized(0.8, 1.6)(crop, random), "JPEG", quality=int(random.integers(80, 96)))


def _alpha(colour: int, soft: bool = False) -> Change:
    """The body alone is covered; under the rest lies a colour."""

    def change(crop: Crop, random: Random) -> NDArray[np.uint8]:
        around = padded(crop, int(random.integers(0, 5)))
        cover = np.where(dilated(around < 250, square=False) if soft else around < 250, 255, 0).astype(np.uint8)
        if soft:
            cover = np.asarray(Image.fromarray(cover).filter(ImageFilter.GaussianBlur(0.7)))
        grey = np.where(cover > 0, around, colour).astype(np.uint8)
        return np.dstack([grey, grey, grey, cover])

    return change


def _grey_alpha(crop: Crop, _: Random) -> NDArray[np.uint8]:
    return np.dstack([crop, np.where(crop < 250, 255, 0).astype(np.uint8)])


def _grey_alpha_png(crop: Crop, random: Random) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_grey_alpha(crop, random), "LA").save(stream, "PNG")
    return stream.getvalue()


def _shuffled_palette(crop: Crop, random: Random) -> bytes:
    order = random.permutation(256)
    image = Image.fromarray(order[crop].astype(np.uint8))
    levels = np.empty(256, np.uint8)
    levels[order] = np.arange(256)
    image.putpalette(np.repeat(levels, 3).tolist())
    stream = io.BytesIO()
    image.save(stream, _one_of(random, ("PNG", "GIF", "BMP", "TIFF")))
    return stream.getvalue()


def _few_colours(crop: Crop, random: Random) -> bytes:
    image = Image.fromarray(crop).convert("RGB").quantize(int(random.integers(24, 128)))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _any_exif(file_format: str) -> Callable[[Crop, Random], bytes]:
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}

    def save(crop: Crop, random: Random) -> bytes:
        orientation = int(random.integers(1, 9))
        exif = Image.Exif()
        exif[0x0112] = orientation
        method = back[orientation]
        image = Image.fromarray(crop)
        if method is not None:
            image = image.transpose(Image.Transpose(method))
        stream = io.BytesIO()
        image.save(stream, file_format, exif=exif, **({"quality": 95} if file_format == "JPEG" else {}))
        return stream.getvalue()

    return save


def _with_profile(crop: Crop, random: Random) -> bytes:
    """An uncompressed TIFF whose colour profile is larger than its pixels."""
    profile = random.integers(0, 256, int(3 * crop.size), dtype=np.uint8).tobytes()
    return tiff(crop, iccprofile=profile)


def _pages_of_pyramid(crop: Crop, _: Random) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(crop, photometric="minisblack", subifds=1)
        writer.write(np.ascontiguousarray(crop[::2, ::2]), photometric="minisblack", subfiletype=1)
    return stream.getvalue()


def _tiled(crop: Crop, _: Random) -> bytes:
    return tiff(crop, tile=(16, 16))


MORE_KINDS: dict[str, Kind] = {
    "u16_any_white": _deep("uint16", (700, 65535)),
    "u16_any_white_big_endian": _deep("uint16", (700, 65535), byteorder=">"),
    "u16_bias": _deep("uint16", (2000, 65535), (0.01, 0.04)),
    "u16_black_lifted": _deep("uint16", (2000, 65535), (0.15, 0.3)),
    "i16_any_white": _deep("int16", (900, 32767)),
    "i32_any_white": _deep("int32", (200, 2.0**31 - 1)),
    "u32_any_white": _deep("uint32", (200, 2.0**32 - 1)),
    "u64_any_white": _deep("uint64", (200, 65535)),
    "f16_unit": _deep("float16", (0.5, 1.0)),
    "f32_unit": _deep("float32", (0.4, 1.0)),
    "f32_counts": _deep("float32", (200, 60000)),
    "f64_counts": _deep("float64", (200, 60000)),
    "rgb16_any_white": _deep_colours((3000, 65535)),
    "rgb16_planar": _deep_colours((3000, 65535), planarconfig="separate"),
    "minwhite10": _min_is_white(10),
    "minwhite12": _min_is_white(12),
    "minwhite14": _min_is_white(14),
    "minwhite12_zlib": _min_is_white(12, compression="zlib"),
    "paper60_250": _png(_paper((60, 250)), "same or flagged", "paper"),
    "paper_margin": _png(_paper((60, 250), 12), "same or flagged", "paper"),
    "paper_inverted": _png(_inverted(_paper((60, 250), 4)), "same or flagged", "paper"),
    "black_lifted": _png(_compressed((20, 80), (255, 255)), "same or flagged", "contrast"),
    "contrast_half": _png(_compressed((60, 100), (190, 240)), "same or flagged", "contrast"),
    "contrast_half_inverted": _png(_inverted(_compressed((60, 100), (190, 240))), "same or flagged", "contrast"),
    "gamma_dark": _png(_gamma(1.4, 2.2), "same or flagged", "gamma"),
    "gamma_pale": _png(_gamma(0.45, 0.8), "same or flagged", "gamma"),
    "gradient5_15": _png(_gradient((0.05, 0.15)), "same or flagged", "shading"),
    "gradient15_30": _png(_gradient((0.15, 0.3)), "same or flagged", "shading"),
    "gradient_margin": _png(_gradient((0.05, 0.3), 15), "same or flagged", "shading"),
    "gradient_inverted": _png(_inverted(_gradient((0.05, 0.3), 8)), "same or flagged", "shading"),
    "vignette5_30": _png(_vignette((0.05, 0.3)), "same or flagged", "shading"),
    "vignette_margin": _png(_vignette((0.05, 0.3), 15), "same or flagged", "shading"),
    "noise_light": _png(_noisy((0.5, 2)), "same or flagged", "noise"),
    "noise_strong": _png(_noisy((3, 8)), "same or flagged", "noise"),
    "noise_margin": _png(_noisy((1, 6), 15), "same or flagged", "noise"),
    "noise_grey": _png(_noisy((1, 5), 8, (120, 245)), "same or flagged", "noise"),
    "noise_inverted": _png(_inverted(_noisy((1, 5), 8, (200, 250))), "same or flagged", "noise"),
    "noise_in_light": _png(_noisy_in_light, "same or flagged", "noise"),
    "noise_in_light_inverted": _png(_inverted(_noisy_in_light), "same or flagged", "noise"),
    "sharpened": _png(_sharpened, "same or flagged", "sharpness"),
    "softened": _png(_softened, "same or flagged", "sharpness"),
    "dapi_green": _png(_dye((0, 1, 0.1)), "same or flagged", "dye"),
    "dapi_red": _png(_dye((1, 0.1, 0)), "same or flagged", "dye"),
    "dapi_cyan": _png(_dye((0, 1, 1)), "same or flagged", "dye"),
    "dapi_magenta": _png(_dye((1, 0, 1)), "same or flagged", "dye"),
    "dapi_yellow": _png(_dye((1, 0.9, 0)), "same or flagged", "dye"),
    "dapi_blue_glow": _png(_dye((0.1, 0.2, 1), 30), "same or flagged", "dye"),
    "dye_u16": Kind(_deep_dye, ".tif", "same or flagged", "dye"),
    "sepia": _png(_cast((240, 220, 180), (60, 40, 10)), "same or flagged", "cast"),
    "giemsa": _png(_cast((255, 255, 255), (70, 20, 110)), "same or flagged", "cast"),
    "giemsa_paper": _png(_cast((225, 215, 230), (80, 30, 120)), "same or flagged", "cast"),
    "any_cast": _png(_random_cast, "same or flagged", "cast"),
    "frame_black": _png(_framed((1, 5), (0, 10)), "same", "frame"),
    "frame_grey": _png(_framed((1, 5), (60, 128, 192, 225)), "same", "frame"),
    "frame_black_inverted": _png(_inverted(_framed((1, 5), (0, 255 // 2), (1, 4))), "same", "frame"),
    "frame_one_side": _png(_framed((1, 5), (0, 60, 128, 200), (0, 4), 1), "same", "frame"),
    "frame_two_sides": _png(_framed((1, 5), (0, 60, 128, 200), (0, 4), 2), "same", "frame"),
    "frame_three_sides": _png(_framed((1, 5), (0, 60, 128, 200), (0, 4), 3), "same", "frame"),
    "frame_double": _png(_double_frame, "same", "frame"),
    "frame_rounded": _png(_rounded_frame, "same", "frame"),
    "frame_coloured": _png(_coloured_frame, "same", "frame"),
    "frame_soft": _png(_soft_frame, "same", "frame"),
    "box_drawn": _png(_drawn_box, "same", "frame"),
    "pad_wide": _png(_wide_cut_out, "same", "frame"),
    "cut_out_black": _png(_cut_out(0, (0, 8), 3), "same", "cutout"),
    "cut_out_near_black": _png(_cut_out(12, (0, 8), 3), "same", "cutout"),
    "cut_out_grey": _png(_cut_out(128, (0, 8), 3), "same", "cutout"),
    "cut_out_pale": _png(_cut_out(200, (0, 8), 3), "same", "cutout"),
    "cut_out_blue": _png(_blue_cut_out, "same", "cutout"),
    "cut_out_dark_white": _png(_cut_out(255, (0, 8), 0, True), "same", "cutout"),
    "cut_out_dark_grey": _png(_cut_out(128, (0, 8), 0, True), "same", "cutout"),
    "cut_out_bilinear": _png(_resampled_cut_out(Image.Resampling.BILINEAR), "same or flagged", "resampled"),
    "cut_out_bicubic": _png(_resampled_cut_out(Image.Resampling.BICUBIC), "same or flagged", "resampled"),
    "cut_out_lanczos": _png(_resampled_cut_out(Image.Resampling.LANCZOS), "same or flagged", "resampled"),
    "cut_out_nearest": _png(_resampled_cut_out(Image.Resampling.NEAREST), "same or flagged", "resampled"),
    "cut_out_grey_bilinear": _png(_resampled_cut_out(Image.Resampling.BILINEAR, 128), "same or flagged", "resampled"),
    "cut_out_turned": _png(_turned_cut_out(0), "same or flagged", "resampled"),
    "cut_out_turned_grey": _png(_turned_cut_out(128), "same or flagged", "resampled"),
    "cut_out_feathered": _png(_feathered_cut_out, "same or flagged", "resampled"),
    "crop_turned": _png(_turned_crop, "same or flagged", "resampled"),
    "scale_bar": _png(_bar, "same", "drawing"),
    "label": _png(_text, "same", "drawing"),
    "arrow": _png(_arrow, "same", "drawing"),
    "scale_bar_inverted": _png(_inverted(_bar), "same", "drawing"),
    "label_inverted": _png(_inverted(_text), "same or flagged", "drawing"),
    "specks": _png(_specks, "same", "dirt"),
    "specks_inverted": _png(_inverted(_specks), "same", "dirt"),
    "hair": _png(_hair, "same", "dirt"),
    "dead_pixels": _png(_hot_pixels(0), "same", "dirt"),
    "hot_pixels": _png(_hot_pixels(255), "same", "dirt"),
    "dead_line": _png(_dead_line(0), "same or flagged", "line"),
    "hot_line": _png(_dead_line(255), "same or flagged", "line"),
    "grey_lines": _png(_dead_line(128, 2), "same or flagged", "line"),
    "dead_line_beside": _png(_dead_edge_line, "same", "line"),
    "sliver": _png(_sliver, "same or flagged", "sliver"),
    "sliver_inverted": _png(_inverted(_sliver), "same or flagged", "sliver"),
    "jpeg50_75": _jpeg(50, 75),
    "jpeg75_95": _jpeg(75, 95),
    "jpeg50_95_margin": _jpeg(50, 95, 10),
    "jpeg_colour": _jpeg(60, 95, 4, "RGB"),
    "jpeg_resized": Kind(_resized_jpeg, ".jpg", "same or flagged", "jpeg"),
    "webp": Kind(
        lambda c, r: encoded(padded(c, 4), "WEBP", quality=int(r.integers(60, 96))), ".webp", "same or flagged", "jpeg"
    ),
    "halved": _png(_resized(0.5, 0.8), "same or flagged", "size"),
    "doubled": _png(_resized(1.2, 2.0), "same or flagged", "size"),
    "doubled_nearest": _png(_resized(1.2, 2.0, Image.Resampling.NEAREST), "same or flagged", "size"),
    "alpha_black": _png(_alpha(0), "same", "alpha"),
    "alpha_white": _png(_alpha(255), "same", "alpha"),
    "alpha_soft": _png(_alpha(0, True), "same or flagged", "alpha"),
    "alpha_grey_png": Kind(_grey_alpha_png, ".png", "same", "alpha"),
    "palette_any": Kind(_shuffled_palette, ".png", "same", "file"),
    "palette_few": Kind(_few_colours, ".png", "same or flagged", "file"),
    "exif_any_png": Kind(_any_exif("PNG"), ".png", "same", "file"),
    "exif_any_jpeg": Kind(_any_exif("JPEG"), ".jpg", "same or flagged", "file"),
    "exif_any_tiff": Kind(_any_exif("TIFF"), ".tif", "same", "file"),
    "profile_large": Kind(_with_profile, ".tif", "same", "file"),
    "pyramid": Kind(_pages_of_pyramid, ".tif", "same", "file"),
    "tiled": Kind(_tiled, ".tif", "same", "file"),
}
