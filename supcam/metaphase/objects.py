"""What the things in a picture are: chromosomes and clusters, or nuclei, debris, stain, and what an edge cuts off."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours, regionprops
from skimage.segmentation import watershed

from supcam.metaphase.segmentation import Found, Ground, Labels, Mask, connected, thicknesses
from supcam.serving.gate import CUT_OFF

NUCLEUS = "interphase nucleus"
DEBRIS = "debris"
STAIN = "stain"
NEIGHBOUR = "of another metaphase, cut off at the edge"
# What is not a chromosome of this metaphase gets no type, and nobody needs to look at it.
NO_CHROMOSOME = frozenset({NUCLEUS, DEBRIS, STAIN, NEIGHBOUR})

BLANK = "no metaphase: nothing stands out from the paper"
PHOTO = "no metaphase: no even paper, as in a photo"
NO_WIDTH = "no metaphase: nothing of the width of chromosomes (a photo, text, or too small a picture)"
SPECKS = "no metaphase: {specks} specks and no object of chromosome size"
NUCLEI_ONLY = "no metaphase: {nuclei} interphase nuclei only"
CROP = "no metaphase but a crop of {objects} objects. Use: supcam predict"
KARYOGRAM = "no metaphase but a karyogram: its chromosomes stand upright in rows. Cut it: supcam predict takes crops"
LEFT_OUT = "{objects} objects of another metaphase, which the edge cuts off, are left out"
SEVERAL = "about {chromosomes} chromosomes, more than one metaphase has. Crop the picture to one"


# A picture of a whole metaphase is at least so many chromosome widths long.
_WIDTHS_AT_LEAST = 25
# Lengths in chromosome widths, areas in squared ones, heights as shares of that of a chromosome.
_AREA = 0.45  # below it an object is debris
_WIDTH = (0.4, 1.7)  # mean width below which it is debris, and above which it is a nucleus or stain
_CUT_WIDTH = 1.5  # the same for what an edge cuts off, which shows less of its width
_NUCLEUS, _SOLIDITY = 8.0, 0.8  # area from which something without a gap is a nucleus, and share of its hull it fills
_DISK = 3.5  # diameter of the largest disk in it above which it is a nucleus
_HEIGHT = 0.25  # below it an object is stain
_CUT = 0.5  # stretch of the picture's edge that an object covers when it goes on beyond
_APART = (3.5, 3.0, 2.5, 2.0)  # gaps between two metaphases, in the order in which they are tried
_NEIGHBOUR, _WHOLE = 2, 15  # fewest objects of another metaphase, and of the main one where there are others
_ONE = 48  # most chromosomes of a picture in which no others are looked for
# Fewer chromosomes and clusters are not a metaphase, if their area is that of a cluster as well (see serving/gate.py).
_OBJECTS, _CLUSTER = 5, 90.0
_COVERED = 0.6  # share of the picture that is not paper above which there is none
_UPRIGHT = 0.75  # share of the long objects within 20 degrees of upright that makes a karyogram
_CHROMOSOMES = (70, 300)  # more are two metaphases, and still more none
_PIXELS = 4.0  # least width of a chromosome, in pixels

Ring = list[list[float]]


@dataclass(frozen=True)
class Thing:
    """One object of a picture, in the picture's own pixels.

    Attributes:
        left, top: first column and row of its box.
        mask: (height, width), its pixels within the box.
        reason: why it is not a chromosome, or ``cut off at the edge``; empty for others.
        paper: level of the paper around it, 0 to 255, after dark paper was turned bright.
    """

    left: int
    top: int
    mask: Mask
    reason: str
    paper: float

    @property
    def is_chromosome(self) -> bool:
        """Whether it is a chromosome or a cluster of them, and gets a type."""
        return self.reason not in NO_CHROMOSOME

    @property
    def box(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @cached_property
    def rings(self) -> tuple[list[Ring], list[Ring]]:
        """Its outlines and holes as closed rings of (x, y) in pixels of the picture.

        The centre of the picture's first pixel is (0.5, 0.5), as COCO and QuPath have it.
        """
        padded = np.pad(self.mask, 1).astype(np.uint8)
        contours = find_contours(padded, 0.5, fully_connected="high")  # type: ignore[no-untyped-call]
        outlines: list[Ring] = []
        holes: list[Ring] = []
        for contour in contours:
            columns, rows = contour[:, 1] - 0.5 + self.left, contour[:, 0] - 0.5 + self.top
            twice_area = float(np.sum(columns[:-1] * rows[1:] - columns[1:] * rows[:-1]))
            ring = np.round(np.stack([columns, rows], axis=1), 1).tolist()
            # Of its outline and its holes the values below the level lie on the same hand, so they turn opposite ways.
            (outlines if twice_area > 0 else holes).append(ring)
        return outlines, holes

    @property
    def area(self) -> int:
        """Its pixels."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True)
class Scene:
    """All things of a picture from top to bottom, and why the picture does not show exactly one metaphase.

    Attributes:
        things: the objects; none where the picture is not a metaphase.
        reason: one line, empty for one metaphase.
        refused: whether the picture is not a metaphase.
        width: width of a chromosome, pixels of the picture.
    """

    things: tuple[Thing, ...]
    reason: str = ""
    refused: bool = False
    width: float = 0.0


def scene_of(ground: Ground, found: Found) -> Scene:
    """Judge what was found in a picture: thing by thing, then the picture."""
    labels, reasons = _judged(ground, found)
    for index in _of_neighbours(labels, reasons, found.width):
        reasons[index] = NEIGHBOUR
    reason, refused = _picture_reason(ground, found, labels, reasons)
    width = found.width * ground.factor
    if refused:
        return Scene((), reason, True, width)
    things = []
    for index, box in enumerate(ndimage.find_objects(labels)):
        mask = labels[box] == index + 1
        paper = float(np.median(found.paper[box][mask]))
        things.append(_thing(ground, box, mask, reasons[index], paper))
    things.sort(key=lambda thing: (thing.top, thing.left))
    return Scene(tuple(things), reason, False, width)


def _judged(ground: Ground, found: Found) -> tuple[Labels, list[str]]:
    """Labels of what was found, nuclei as a whole, and the reason of each, empty for chromosomes."""
    labels, width = found.labels, found.width
    if not width:
        return labels, []
    nuclei = connected(found.nuclei)
    sound = np.array([False, *(_is_nucleus(region, width) for region in _regions(nuclei))])
    nuclei = (np.cumsum(sound) * sound)[nuclei]
    # What a nucleus covers mostly is a part of it.
    inside = np.bincount(labels.ravel(), weights=(nuclei > 0).ravel())
    apart = inside <= 0.5 * np.bincount(labels.ravel())
    apart[0] = False
    rest = (np.cumsum(apart) * apart)[labels]
    count = int(apart.sum())
    labels = np.where(nuclei > 0, nuclei + count, rest).astype(np.int32)
    total = int(labels.max())
    if not total:
        return labels, []
    means, disks = thicknesses(labels)
    regions = _regions(labels)
    areas = np.bincount(labels.ravel(), minlength=total + 1)[1:]
    heights = ndimage.mean(found.paper - ground.grey, labels, np.arange(1, total + 1))
    cut = _cut(labels)
    reasons = []
    for index in range(total):
        mean = means[index] / width
        is_cut = cut[index] > _CUT * width
        thick = disks[index] > _DISK * width or mean > (_CUT_WIDTH if is_cut else _WIDTH[1])
        if index >= count or (thick and _is_nucleus(regions[index], width)):
            reason = NUCLEUS
        elif areas[index] < _AREA * width**2 or mean < _WIDTH[0]:
            reason = DEBRIS
        elif heights[index] < _HEIGHT * found.height:
            reason = STAIN
        else:
            reason = CUT_OFF if is_cut else ""
        reasons.append(reason)
    return labels, reasons


def _of_neighbours(labels: Labels, reasons: list[str], width: float) -> list[int]:
    """Indices of the objects of other metaphases, which an edge cuts off, where one metaphase is whole.

    Objects that lie nearer to each other than a gap are one part. The gap is the widest that leaves the largest part
    whole; parts that an edge cuts off are other metaphases then, and the rest goes with what is nearest to it.
    """
    chosen = np.flatnonzero([reason not in NO_CHROMOSOME for reason in reasons])
    is_cut = np.array([reasons[index] == CUT_OFF for index in chosen], dtype=bool)
    areas = np.bincount(labels.ravel(), minlength=len(reasons) + 1)[chosen + 1] / max(width, 1.0) ** 2
    if not is_cut.any() or _chromosomes(areas) <= _ONE:
        return []
    place = np.zeros(len(reasons) + 1, dtype=bool)
    place[chosen + 1] = True
    away = ndimage.distance_transform_edt(~place[labels])
    for gap in _APART:
        parts = connected(away <= 0.5 * gap * width)
        part = np.asarray(ndimage.maximum(parts, labels, chosen + 1), dtype=np.intp)
        counts, cut = np.bincount(part), np.bincount(part, is_cut) > 0
        main = int(np.argmax(counts))
        if counts[main] >= _WHOLE and not cut[main]:
            others = cut & (counts >= _NEIGHBOUR)
            break
    else:
        return []
    if not others.any():
        return []
    # Flooding the gaps from both joins what is left to the one that it reaches over the narrower gaps.
    kinds = np.where(others, 2, 0)
    kinds[main] = 1
    flooded = watershed(away, kinds[parts])  # type: ignore[no-untyped-call]
    return [int(index) for index in chosen[ndimage.mean(flooded, labels, chosen + 1) > 1.5]]


def _regions(labels: Labels) -> list[Any]:
    return list(regionprops(labels))  # type: ignore[no-untyped-call]


def _is_nucleus(region: Any, width: float) -> bool:
    return bool(region.area >= _NUCLEUS * width**2 and region.solidity >= _SOLIDITY)


def _cut(labels: Labels) -> NDArray[np.intp]:
    """Pixels of each object on one edge of the picture, (n,)."""
    count = int(labels.max()) + 1
    lines = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    return np.asarray(np.max([np.bincount(line, minlength=count) for line in lines], axis=0)[1:])


def _picture_reason(ground: Ground, found: Found, labels: Labels, reasons: list[str]) -> tuple[str, bool]:
    """Why a picture does not show exactly one metaphase; and whether it shows none."""
    chosen = np.array([reason not in NO_CHROMOSOME for reason in reasons], dtype=bool)
    count, nuclei = int(chosen.sum()), reasons.count(NUCLEUS)
    areas = np.bincount(labels.ravel(), minlength=len(reasons) + 1)[1:]
    area = float(areas[chosen].sum()) / found.width**2 if found.width else 0.0
    few = count < _OBJECTS and area <= _CLUSTER
    if few and found.specks + reasons.count(DEBRIS) > 100:
        return SPECKS.format(specks=found.specks + reasons.count(DEBRIS)), True
    if (nuclei and few) or _are_nuclei(found, labels, chosen):
        return NUCLEI_ONLY.format(nuclei=nuclei or count), True
    if not count:
        return BLANK, True
    if found.width * ground.factor < _PIXELS:
        return NO_WIDTH, True
    if np.mean(ground.grey < 255 - 0.5 * found.height) > _COVERED:
        return PHOTO, True
    if few:
        return CROP.format(objects=count), True
    if _is_upright(labels, chosen):
        return KARYOGRAM, True
    chromosomes = _chromosomes(areas[chosen] / found.width**2)
    if chromosomes > _CHROMOSOMES[1]:
        return PHOTO, True
    if chromosomes > _CHROMOSOMES[0]:
        return SEVERAL.format(chromosomes=chromosomes), False
    neighbours = reasons.count(NEIGHBOUR)
    return LEFT_OUT.format(objects=neighbours) if neighbours else "", False


def _are_nuclei(found: Found, labels: Labels, chosen: Mask) -> bool:
    """Whether nearly all objects are compact, and larger in their picture than chromosomes of a metaphase are."""
    if not chosen.any() or found.width * _WIDTHS_AT_LEAST < max(labels.shape):
        return False
    regions = [region for region in _regions(labels) if chosen[region.label - 1]]
    compact = [
        region.solidity > 0.85 and region.axis_major_length < 1.8 * region.axis_minor_length for region in regions
    ]
    return float(np.mean(compact)) >= 0.8


def _is_upright(labels: Labels, chosen: Mask) -> bool:
    regions = [region for region in _regions(labels) if chosen[region.label - 1]]
    tilts = [
        abs(region.orientation)
        for region in regions
        if region.axis_major_length > 1.7 * max(region.axis_minor_length, 1)
    ]
    return len(tilts) >= 10 and float(np.mean(np.array(tilts) < math.radians(20))) >= _UPRIGHT


def _chromosomes(areas: NDArray[np.float64]) -> int:
    """About how many chromosomes objects of these areas are: a cluster counts by the usual area of the others."""
    usual = float(np.median(areas))
    return int(np.maximum(1, np.rint(areas / (1.3 * usual))).sum())


def _thing(ground: Ground, box: tuple[slice, slice], mask: Mask, reason: str, paper: float) -> Thing:
    """A thing in pixels of the picture; a mask found on an averaged picture gets a smooth outline."""
    factor = ground.factor
    top, left = box[0].start * factor + ground.offset[0], box[1].start * factor + ground.offset[1]
    if factor > 1:
        height, width = mask.shape
        soft = Image.fromarray(np.pad(mask, 1).astype(np.uint8) * 255)
        soft = soft.resize(((width + 2) * factor, (height + 2) * factor), Image.Resampling.BILINEAR)
        mask = np.asarray(soft)[factor:-factor, factor:-factor] > 127
        mask = mask[: ground.shape[0] - top, : ground.shape[1] - left]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Thing(left + int(columns[0]), top + int(rows[0]), mask, reason, paper)
