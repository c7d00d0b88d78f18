"""The annotated picture: types as colours, numbers, doubtful objects hatched, everything else outlined in grey."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from supcam.metaphase.metaphase import Metaphase
from supcam.metaphase.palette import COLOURS, OTHER, Colour

# Longest side of the drawing, pixels; small pictures are enlarged, by a whole number, to about as much.
_SIDE = 1600
_FILL, _HATCH, _HATCH_STEP = 0.45, (60, 60, 60), 9
_TEXT: Colour = (0, 0, 0)


def annotated(metaphase: Metaphase) -> Image.Image:
    """Draw a picture dark on white with all its objects, and a legend below it."""
    height, width = metaphase.image.shape
    scale = _SIDE / max(height, width)
    scale = max(1.0, float(round(scale))) if scale >= 1 else scale
    shape = round(height * scale), round(width * scale)
    canvas = _background(metaphase.image, shape)
    for thing, row in metaphase.rows:
        top, left = round(thing.top * scale), round(thing.left * scale)
        size = max(1, round(thing.mask.shape[1] * scale)), max(1, round(thing.mask.shape[0] * scale))
        mask = np.pad(np.asarray(Image.fromarray(thing.mask).resize(size)), 1)
        _paint(canvas, mask, top - 1, left - 1, row["type"], hatched=row["needs_review"])
    picture = Image.fromarray(canvas)
    _number(picture, metaphase, scale)
    return _with_legend(picture, metaphase)


def _background(image: NDArray[np.float32] | NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture in grey, stretched and a little pale, so that colours show, (h, w, 3)."""
    whole = Image.fromarray(image.astype(np.uint8, copy=False))  # Pillow copies floats twice, and a picture is large
    small = np.asarray(whole.resize(shape[::-1], Image.Resampling.BILINEAR), dtype=np.float32)
    dark, bright = np.percentile(small[::4, ::4], (0.5, 60))
    grey = np.clip((small - dark) / max(bright - dark, 1.0), 0, 1) ** 0.8
    return np.repeat((60 + 195 * grey).astype(np.uint8)[..., np.newaxis], 3, axis=2)


def _paint(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], top: int, left: int, kind: str, hatched: bool) -> None:
    """Tint one object and draw its outline; what lies beyond the canvas is left out."""
    rows, columns = slice(max(top, 0), top + mask.shape[0]), slice(max(left, 0), left + mask.shape[1])
    part = canvas[rows, columns]
    mask = mask[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
    colour = np.array(COLOURS.get(kind, OTHER), dtype=np.float32)
    if kind:
        part[mask] = (part[mask] * (1 - _FILL) + colour * _FILL).astype(np.uint8)
        line = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask)
        part[line] = colour.astype(np.uint8)
        part[ndimage.binary_dilation(line) & ~line & ~mask] = (0, 0, 0)
    else:
        part[mask & ~ndimage.binary_erosion(mask, iterations=2)] = OTHER
    if hatched:
        y, x = np.nonzero(mask)
        stripes = (x + left + y + top) % _HATCH_STEP < 2
        part[y[stripes], x[stripes]] = _HATCH


def _number(picture: Image.Image, metaphase: Metaphase, scale: float) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(20)
    for thing, row in metaphase.rows:
        if row["type"]:
            rows, columns = np.nonzero(thing.mask)
            corner = int(np.argmax(columns - rows))  # the pixel farthest up and right
            place = ((thing.left + columns[corner]) * scale + 5, (thing.top + rows[corner]) * scale - 20)
            place = (min(place[0], picture.width - 30.0), min(max(place[1], 0.0), picture.height - 24.0))
            draw.text(place, str(row["object"]), _TEXT, font, stroke_width=3, stroke_fill=(255, 255, 255))


def _with_legend(picture: Image.Image, metaphase: Metaphase) -> Image.Image:
    counts, font, line = metaphase.counts, ImageFont.load_default(22), 40
    entries = [(f"{counts[name]} {name}", COLOURS[name], False) for name in COLOURS]
    entries += [(f"{counts['needs_review']} need review", (255, 255, 255), True)]
    entries += [(f"{counts['nuclei']} nuclei, {counts['debris']} debris, stain or of another metaphase", OTHER, False)]
    rows: list[list[tuple[str, Colour, bool]]] = [[]]
    reach = 0.0
    for entry in entries:
        length = font.getlength(entry[0]) + 64
        if reach + length > picture.width and rows[-1]:
            rows.append([])
            reach = 0.0
        rows[-1].append(entry)
        reach += length
    notes = [metaphase.reason] if metaphase.reason else []
    out = Image.new("RGB", (picture.width, picture.height + line * (len(rows) + len(notes)) + 12), (255, 255, 255))
    out.paste(picture, (0, 0))
    draw = ImageDraw.Draw(out)
    for index, row in enumerate(rows):
        x, y = 12.0, picture.height + 8 + line * index
        for text, colour, hatched in row:
            draw.rectangle((x, y + 2, x + 26, y + 28), fill=colour, outline=(0, 0, 0))
            for step in range(0, 52, 7) if hatched else ():
                draw.line((x + max(0, step - 26), y + 2 + min(step, 26), x + min(step, 26), y + 2 + max(0, step - 26)),
                          fill=_HATCH, width=2)  # fmt: skip
            draw.text((x + 34, y + 2), text, _TEXT, font)
            x += font.getlength(text) + 64
    for index, text in enumerate(notes, len(rows)):
        draw.text((12, picture.height + 8 + line * index), text, (150, 0, 0), font)
    return out
