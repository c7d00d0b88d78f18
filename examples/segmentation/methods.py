"""A method for each type: from a crop on white (H, W) to masks of its chromosomes (N, H, W), which may share pixels.

Needs numpy, SciPy, scikit-image, Pillow and, for the network, onnxruntime; no training stack.
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.segmentation import watershed

from supcam.serving.reading import mean_width

Grey = NDArray[np.uint8]
Labels = NDArray[np.int32]
Masks = NDArray[np.bool_]
Targets = NDArray[np.uint8]
Method = Callable[[Grey], Masks]

OUTSIDE, INSIDE, OVERLAP, CONTACT = range(4)
HALO_LEVEL, CORE_LEVEL = 250, 240
MIN_PIXELS = 40
EIGHT = np.ones((3, 3), dtype=bool)
# The network sees chromosomes about so wide, in pictures with sides of multiples of SIDE_STEP.
WIDTH, SIDE_STEP = 13, 8
# Weight of a contact against the other classes: by what is known of the crop (docs/segmentation.md).
UNKNOWN, CLUSTER = 4.0, 8.0


def body_of(crop: Grey) -> Masks:
    """Everything darker than the paper but specks, (H, W)."""
    labels, _ = ndimage.label(crop < HALO_LEVEL, EIGHT)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body: Masks = np.isin(labels, np.flatnonzero(sizes >= min(MIN_PIXELS, sizes.max(initial=1))))
    return body


def keep_whole(crop: Grey) -> Masks:
    """One chromosome."""
    return body_of(crop)[np.newaxis]


def split_touching(crop: Grey) -> Masks:
    """Watershed of the distance from the background, one basin for each dark body; bends are no contacts."""
    return _masks(_basins(crop, merge=True))


def plain_watershed(crop: Grey) -> Masks:
    """The same without knowledge of chromosomes: one basin for each peak of the distance."""
    return _masks(_basins(crop, merge=False))


def _basins(crop: Grey, *, merge: bool) -> Labels:
    body = body_of(crop)
    inside = ndimage.binary_fill_holes(body & (crop < CORE_LEVEL))
    distance = ndimage.distance_transform_edt(inside)
    # Half a chromosome's width is the scale of everything: bands and bends below it are no contacts.
    width = distance.max()
    distance = ndimage.gaussian_filter(distance, 0.3 * width)
    apart = max(2, int(1.5 * width))
    peaks = peak_local_max(distance, min_distance=apart, labels=label(inside), exclude_border=False)
    markers = np.zeros(crop.shape, dtype=np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    pieces: Labels = watershed(-distance, markers, mask=body).astype(np.int32)
    if not pieces.any():
        return body.astype(np.int32)
    return _merge_pieces_of_one(pieces, distance) if merge else pieces


def _merge_pieces_of_one(pieces: Labels, distance: NDArray[np.float64], neck: float = 0.65) -> Labels:
    """Join basins whose border is nearly as wide as they are: a bend of one chromosome, not a contact of two."""
    widest = ndimage.maximum(distance, pieces, np.arange(pieces.max() + 1))
    for axis in (0, 1):
        first, second = (np.moveaxis(pieces, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        depth = np.moveaxis(distance, axis, 0)[:-1]
        for one, other in {tuple(sorted(pair)) for pair in zip(first.flat, second.flat, strict=True)}:
            border = (np.minimum(first, second) == one) & (np.maximum(first, second) == other)
            if 0 < one < other and depth[border].max() > neck * min(widest[one], widest[other]):
                pieces = np.where(pieces == other, one, pieces)
                return _merge_pieces_of_one(_renumbered(pieces), distance, neck)
    return pieces


def _renumbered(pieces: Labels) -> Labels:
    return np.unique(pieces, return_inverse=True)[1].reshape(pieces.shape).astype(np.int32)


def _masks(labels: Labels) -> Masks:
    return np.stack([labels == number for number in range(1, max(1, int(labels.max())) + 1)])


def native(crop: Grey) -> Grey:
    """A crop at the scale of the network, by the width of its chromosomes; within a quarter of it as it is."""
    factor = WIDTH / mean_width(crop < HALO_LEVEL)
    if 0.8 <= factor <= 1.25:
        return crop
    height, width = (max(8, round(side * min(max(factor, 0.1), 4))) for side in crop.shape)
    return np.asarray(Image.fromarray(crop).resize((width, height), Image.Resampling.BILINEAR))


def resized(labels: Targets, shape: tuple[int, ...]) -> Targets:
    """Classes (H, W) at another size."""
    if labels.shape == tuple(shape):
        return labels
    return np.asarray(Image.fromarray(labels).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


class Network:
    """The network of an ONNX file, and chromosomes built of what it says."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def probabilities(self, crop: Grey) -> NDArray[np.float32]:
        """Of outside, chromosome, overlap and contact for each pixel of a crop, (4, H, W)."""
        scaled = native(crop)
        height, width = scaled.shape
        pads = [(4, 4 + -side % SIDE_STEP + (SIDE_STEP if side <= SIDE_STEP else 0)) for side in scaled.shape]
        ink = 1 - np.pad(scaled, pads, constant_values=255).astype(np.float32) / 255
        rows, columns = (max(16, side + -side % SIDE_STEP) for side in ink.shape)
        ink = np.pad(ink, ((0, rows - ink.shape[0]), (0, columns - ink.shape[1])))
        found = self._session.run(None, {"ink": ink[np.newaxis, np.newaxis]})[0][0, :, 4 : 4 + height, 4 : 4 + width]
        if scaled.shape == crop.shape:
            return found
        size = (crop.shape[1], crop.shape[0])
        return np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)) for plane in found])

    def __call__(self, crop: Grey) -> Masks:
        """The chromosomes of a crop of unknown type; an overlap belongs to each of the two that cross in it."""
        return build(_weighted(self.probabilities(crop), UNKNOWN), body_of(crop))

    def cluster(self, crop: Grey) -> Masks:
        """The same for a crop known to hold several chromosomes, in which a weak contact is one."""
        return build(_weighted(self.probabilities(crop), CLUSTER), body_of(crop))

    def touching(self, crop: Grey) -> Masks:
        """The same for a cluster known to hold no overlap: what looks like one is a contact."""
        probabilities = self.probabilities(crop)
        probabilities[CONTACT] += probabilities[OVERLAP]
        probabilities[OVERLAP] = 0
        return build(_weighted(probabilities, CLUSTER), body_of(crop))


def _weighted(probabilities: NDArray[np.float32], contact: float) -> NDArray[np.float32]:
    """Odds in which a contact, of few pixels in all, counts more."""
    return probabilities * np.array([1, 1, 1, contact], dtype=np.float32)[:, np.newaxis, np.newaxis]


def build(probabilities: NDArray[np.float32], body: Masks) -> Masks:
    """Chromosomes from the classes of the pixels: arms, joined across overlaps by their directions.

    Args:
        probabilities: Of the four classes, (4, H, W).
        body: What is not paper, (H, W); all of it is given to chromosomes.
    """
    classes = probabilities.argmax(axis=0)
    overlaps, crossings = _regions(body & (classes == OVERLAP), 10)
    # Arms that meet at the corners of an overlap would be one: a ring around it belongs to none of them.
    ring = ndimage.binary_dilation(overlaps > 0, EIGHT)
    arms, count = _regions(body & (classes != CONTACT) & ~ring, 15)
    if count == 0:
        return body[np.newaxis]
    # What is neither arm nor overlap, contacts above all, goes to the nearest arm.
    nearest = ndimage.distance_transform_edt(arms == 0, return_distances=False, return_indices=True)
    whole = np.where(body & (overlaps == 0), arms[tuple(nearest)], 0)
    owner = np.arange(count + 1)
    shares: list[tuple[int, int]] = []
    for crossing in range(1, crossings + 1):
        region = overlaps == crossing
        near = ndimage.binary_dilation(region, EIGHT, iterations=3)
        ends = [int(arm) for arm in np.unique(arms[near]) if arm > 0]
        for one, other in _pairs(arms, ends, region):
            owner[owner == owner[other]] = owner[one]
        shares += [(end, crossing) for end in ends]
    masks = {int(number): np.isin(whole, np.flatnonzero(owner == number)) for number in np.unique(owner[1:])}
    for end, crossing in shares:
        masks[int(owner[end])] |= overlaps == crossing
    return np.stack([mask for mask in masks.values() if mask.any()])


def _regions(mask: Masks, least: int) -> tuple[Labels, int]:
    """4-connected regions of at least so many pixels, numbered from 1."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= least)
    table = np.zeros(len(sizes), dtype=np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    return table[labels], len(kept)


def _pairs(arms: Labels, ends: list[int], region: Masks, straight: float = -0.5) -> list[tuple[int, int]]:
    """Which arms at an overlap are one chromosome: those that lie most nearly opposite each other.

    Of two arms alone neither goes on beyond the overlap: the ends of two chromosomes lie on each other.
    """
    if len(ends) < 3:
        return []
    middle = np.argwhere(region).mean(axis=0)
    reach = 2.5 * np.sqrt(np.count_nonzero(region) / np.pi) + 3
    directions = {}
    for end in ends:
        offsets = np.argwhere(arms == end) - middle
        close = offsets[np.hypot(*offsets.T) <= reach]
        offset = (close if len(close) else offsets).mean(axis=0)
        directions[end] = offset / max(np.hypot(*offset), 1e-6)
    cosines = {(a, b): float(directions[a] @ directions[b]) for a, b in combinations(ends, 2)}
    return _straightest({pair: cosine for pair, cosine in cosines.items() if cosine <= straight})[1]


def _straightest(cosines: dict[tuple[int, int], float]) -> tuple[float, list[tuple[int, int]]]:
    """Of all ways to pair ends, each at most once, the one with the least sum of cosines."""
    best: tuple[float, list[tuple[int, int]]] = (0.0, [])
    for pair, cosine in cosines.items():
        rest = {other: value for other, value in cosines.items() if other > pair and not {*other} & {*pair}}
        total, pairs = _straightest(rest)
        best = min(best, (total + cosine, [pair, *pairs]), key=lambda way: way[0])
    return best
