"""Contact sheet: a row of real crops above a row of composed ones, for each type."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from supcam.cluster_type import ClusterType
from supcam.composition.masks import WHITE, Grey

_TITLE = 14  # pixels above each row
_LINE = 208


def contact_sheet(
    real: Mapping[ClusterType, Sequence[Grey]],
    composed: Mapping[ClusterType, Sequence[Grey]],
    *,
    columns: int = 12,
    cell: int = 110,
    name: str = "real",
) -> Image.Image:
    """Grey image of two rows for each type that was composed; crops larger than ``cell`` pixels are shrunk to fit.

    Crops are taken in the order given, ``columns`` at most, at one pixel a pixel, so that sharpness can be compared.
    ``name`` is what the sources are called in the titles.
    """
    types = [kind for kind in ClusterType if composed.get(kind)]
    height = cell + _TITLE
    sheet = Image.new("L", (columns * cell, max(2 * len(types), 1) * height), WHITE)
    pen = ImageDraw.Draw(sheet)
    rows = [row for kind in types for row in ((kind, name, real.get(kind, ())), (kind, "composed", composed[kind]))]
    for row, (kind, title, crops) in enumerate(rows):
        top = row * height
        pen.line((0, top, sheet.width, top), fill=_LINE)
        pen.text((3, top + 1), f"{kind.label}, {title}", fill=0)
        for column, crop in enumerate(crops[:columns]):
            tile = _fitted(crop, cell - 4)
            left = column * cell + (cell - tile.width) // 2
            sheet.paste(tile, (left, top + _TITLE + (cell - tile.height) // 2))
    return sheet


def _fitted(crop: Grey, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(crop))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    return image
