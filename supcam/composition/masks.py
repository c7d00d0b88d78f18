"""Halo and core masks of one crop, and the quality gates a source must pass."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from supcam.serving.bodies import dilated
from supcam.settings import ComposeSettings

WHITE = 255
EIGHT = np.ones((3, 3), dtype=bool)
RIM = 4  # pixels of frame kept around a halo, for its tail and the contact with a dilated neighbour
_MAX_FILL = 0.95  # a halo that fills more of its crop than this has no white background around it
MAX_PIECE = 0.05  # of the dark pixels in any component but the largest
_MIN_WHITE = 0.5  # of the pixels outside the halo; real crops measure 0.97 and more
_MAX_BORDER = 0.85  # of the crop's outermost pixels in the halo: a frame; real crops measure 0.24, cut tight 0.78

Grey: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Points: TypeAlias = NDArray[np.int64]  # pixels (K, 2), row and column


@dataclass(frozen=True)
class Body:
    """One source on its own tight frame: grey values, halo and core masks, all (H, W).

    ``tail`` is the image with its halo continued beyond the edge that the crop cut, for what it falls on.
    ``width`` is how thick its chromosomes are (core, pixels; the thinnest of an assembly), 0 when unknown.
    ``single`` says that it is known to be one chromosome.
    ``seams``, each the pixels (K, 2) of this frame, are where its touch may lie, the most likely first; empty where
    its type has none or none shows.
    ``cut`` says that it was cropped at so dark a level that its core level had to fall.
    ``corner`` is the (row, column) of this frame's first pixel in the image the body was found in.
    """

    image: Grey
    tail: Grey
    halo: Mask
    core: Mask
    halo_area: int
    core_area: int
    corner: tuple[int, int] = (0, 0)
    width: float = 0.0
    single: bool = False
    cut: bool = False
    seams: tuple[Points, ...] = ()

    @cached_property
    def dilated(self) -> Mask:
        """The halo dilated by a pixel: what another halo must meet to be in contact."""
        return dilated(self.halo)

    @cached_property
    def components(self) -> tuple[NDArray[np.int32], int]:
        """8-connected components of the core: labels (H, W) from 1, and their number."""
        labels, count = ndimage.label(self.core, EIGHT)
        return labels, int(count)


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns that ``mask`` (H, W) spans; it must hold a pixel."""
    rows, columns = ndimage.find_objects(mask.view(np.uint8))[0]
    return rows, columns


def largest_component(mask: Mask) -> Mask:
    """Largest 8-connected component of ``mask`` (H, W); the first one when two are equally large."""
    labels, count = ndimage.label(mask, EIGHT)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    component: Mask = labels == sizes.argmax()
    return component


def core_mask(image: Grey, halo: Mask, settings: ComposeSettings) -> Mask:
    """Pixels darker than ``core_level`` inside ``halo``, enclosed light bands filled, enclosed background not.

    Where that would leave less than ``1 - max_core_share`` of the halo as rim (crops cut at a dark level have hardly
    any), the level falls until it does: without a rim two chromosomes could never merge their haloes.
    """
    inside = image[halo]
    rank = min(int(settings.max_core_share * inside.size), inside.size - 1)
    level = min(settings.core_level, int(np.partition(inside, rank)[rank])) if inside.size else 0
    core: Mask = (image < level) & halo
    labels, count = ndimage.label(~core)
    if count > 1:
        # Light bands inside a chromosome are its own; a gap between chromosomes shows background somewhere.
        enclosed = np.ones(count + 1, dtype=bool)
        for outside in (labels[~halo], labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            enclosed[outside] = False
        enclosed[0] = False
        core |= enclosed[labels]
    return core


def find_body(image: Grey, settings: ComposeSettings, tail: Grey | None = None) -> Body | None:
    """Masks of the chromosome (or cluster) in ``image``, cut to the halo's box; ``None`` when nothing is darker.

    Only the largest 8-component below ``halo_level`` is kept. Pixels outside it turn white, but for the faint rim
    next to it (at or above ``halo_level``), which belongs to its halo.
    """
    halo = largest_component(image < settings.halo_level)
    if not halo.any():
        return None
    rows, columns = bounding_box(halo)
    top, left = max(rows.start - RIM, 0), max(columns.start - RIM, 0)
    box = np.s_[top : rows.stop + RIM, left : columns.stop + RIM]
    halo, image, tail = halo[box], image[box], (image if tail is None else tail)[box]
    image = np.where(dilated(halo), image, np.uint8(WHITE))
    # Another component can lie inside the rim.
    image[(image < settings.halo_level) & ~halo] = WHITE
    core = core_mask(image, halo, settings)
    area = int(np.count_nonzero(halo))
    cut = np.count_nonzero(image[halo] < settings.core_level) > settings.max_core_share * area
    return Body(image, tail, halo, core, area, int(np.count_nonzero(core)), (top, left), cut=bool(cut))


def core_width(core: Mask) -> float:
    """Thickness of the core in pixels, from the median distance to its edge: a quarter of a bar's width.

    Unlike the largest distance, the median does not see where two bars of a cluster cross.
    """
    depth = ndimage.distance_transform_edt(np.pad(core, 1))[1:-1, 1:-1][core]
    return 4.0 * (float(np.median(depth)) - 0.5) if depth.size else 0.0


def falls_apart(image: Grey, settings: ComposeSettings) -> bool:
    """Whether a second 8-component holds a part of the dark pixels that no debris has.

    Only the largest component is composed: of a cluster in pieces, chromosomes that its type counts would be missing.
    """
    labels, count = ndimage.label(image < settings.halo_level, EIGHT)
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    return count > 1 and bool(sizes[-2] > MAX_PIECE * sizes.sum())


def source_defect(image: Grey, settings: ComposeSettings) -> str | None:
    """Why a crop cannot be a source, or ``None`` when it can.

    ``empty`` nothing darker than the halo level, ``speck`` too few pixels, ``larger-than-canvas``,
    ``background`` not white around the chromosome or framed, ``pale`` too little core for its halo.
    """
    if image.size == 0 or not (image < settings.halo_level).any():
        return "empty"
    if max(image.shape) > settings.canvas:
        return "larger-than-canvas"
    halo = largest_component(image < settings.halo_level)
    area = int(np.count_nonzero(halo))
    if area < settings.min_pixels:
        return "speck"
    outside = image[~halo]
    if area > _MAX_FILL * image.size or np.count_nonzero(outside == WHITE) < _MIN_WHITE * outside.size:
        return "background"
    if np.concatenate((halo[0], halo[-1], halo[:, 0], halo[:, -1])).mean() > _MAX_BORDER:
        return "background"
    core = core_mask(image, halo, settings)
    return "pale" if np.count_nonzero(core) < settings.min_core_share * area else None
