"""Drawn metaphases with known outlines: banded chromosomes, pairs, nuclei and specks on noisy, uneven paper."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Grey = NDArray[np.uint8]


@dataclass
class Drawn:
    """A metaphase as a microscope shows it.

    Attributes:
        picture: (H, W), dark on bright.
        truth: (H, W), number of each chromosome or cluster, 0 elsewhere.
        nuclei: (H, W), where nuclei are.
    """

    picture: Grey
    truth: NDArray[np.int32]
    nuclei: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    @property
    def count(self) -> int:
        """Chromosomes and clusters."""
        return int(self.truth.max())


def draw_metaphase(
    seed: int,
    *,
    side: int = 600,
    width: float = 11.0,
    singles: int = 30,
    pairs: int = 4,
    nuclei: int = 2,
    specks: int = 40,
    noise: float = 2.0,
    shade: float = 0.2,
    paper: float = 225.0,
    glow: float = 0.0,
) -> Drawn:
    """Draw bodies that keep a distance of a width; ``shade`` is how much darker the paper is at one corner."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    dark = np.zeros((side, side), dtype=np.float32)
    truth = np.zeros((side, side), dtype=np.int32)
    taken = np.zeros((side, side), dtype=bool)
    kinds = ["nucleus"] * nuclei + ["pair"] * pairs + ["single"] * singles
    nuclear = np.zeros((side, side), dtype=bool)
    number = 0
    for kind in kinds:
        for _ in range(200):
            y, x = rng.uniform(0.1 * side, 0.9 * side, 2)
            body = _body(kind, rows - y, columns - x, width, rng)
            inside = body > 0
            if not (ndimage.binary_dilation(inside, iterations=round(0.8 * width)) & taken).any():
                break
        else:
            continue
        taken |= inside
        dark = np.maximum(dark, body)
        if kind == "nucleus":
            nuclear |= inside
        else:
            number += 1
            truth[inside] = number
    dark = ndimage.gaussian_filter(dark, 0.1 * width)
    if glow:
        dark += glow * ndimage.gaussian_filter(dark, 1.5 * width)
    for y, x in rng.integers(2, side - 2, (specks, 2)):
        dark[y : y + 2, x : x + 2] += rng.uniform(20, 80)
    light = paper * (1 - shade * (rows / side) * (columns / side) * 1.0)
    picture = light * (1 - dark / 255) + rng.normal(0, noise, dark.shape)
    return Drawn(np.clip(np.rint(picture), 0, 255).astype(np.uint8), truth, nuclear)


def paste_crops(crops: list[Grey], seed: int, *, side: int = 1400, noise: float = 2.5, shade: float = 0.25) -> Drawn:
    """Real crops, dark on white, at free places of noisy paper that is darker towards a corner."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side), 255, dtype=np.float32)
    truth = np.zeros((side, side), dtype=np.int32)
    for crop in crops:
        crop = np.rot90(crop, int(rng.integers(4)))
        labels, count = ndimage.label(ndimage.binary_fill_holes(crop < 235), np.ones((3, 3)))
        if not count:
            continue
        body = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        height, width = crop.shape
        for _ in range(100):
            top, left = rng.integers(20, side - 20 - height), rng.integers(20, side - 20 - width)
            place = np.s_[top - 6 : top + height + 6, left - 6 : left + width + 6]
            if not (truth[place] > 0).any():
                inner = np.s_[top : top + height, left : left + width]
                picture[inner][body] = crop[body]
                truth[inner][body] = truth.max() + 1
                break
    rows, columns = np.mgrid[0:side, 0:side] / side
    picture = picture * 0.9 * (1 - shade * rows * columns) + rng.normal(0, noise, picture.shape)
    return Drawn(np.clip(np.rint(picture), 0, 255).astype(np.uint8), truth)


def _body(
    kind: str, rows: NDArray[np.float32], columns: NDArray[np.float32], width: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    if kind == "nucleus":
        radius = rng.uniform(3.0, 4.5) * width
        texture = 130 + 12 * np.sin(rows / width * 2) * np.cos(columns / width * 2)
        return np.where(np.hypot(rows, columns) < radius, texture, 0).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    first = _bar(rows, columns, angle, rng.uniform(2.2, 6) * width, width, rng)
    if kind == "single":
        return first
    return np.maximum(first, _bar(rows, columns, angle + rng.uniform(0.8, 2.2), 5 * width, width, rng))


def _bar(
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    angle: float,
    length: float,
    width: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length / 2 + width / 2, 0)
    bands = 125 + 45 * np.sin(along / width * rng.uniform(2.5, 4) + rng.uniform(0, 6))
    return np.where(np.hypot(across, beyond) < width / 2, bands, 0).astype(np.float32)


def matched(found: NDArray[np.int32], truth: NDArray[np.int32], least: float = 0.5) -> tuple[int, int, int]:
    """Objects found, false and missed, where a found one is one whose overlap with a true one is ``least`` (IoU)."""
    number = int(found.max()) + 1
    pairs = np.bincount(truth.ravel() * number + found.ravel(), minlength=(int(truth.max()) + 1) * number)
    both = pairs.reshape(-1, number).astype(float)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    hits = (both / np.maximum(union, 1))[1:, 1:] >= least
    return int(hits.any(axis=1).sum()), int((~hits.any(axis=0)).sum()), int((~hits.any(axis=1)).sum())
