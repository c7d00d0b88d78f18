"""Rods that share no code with the project's drawings: banded capsules, alone and laid against each other."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from supcam.cluster_type import ClusterType
from supcam.composition.masks import Grey, Mask
from supcam.serving.bodies import dilated
from supcam.synthetic.chromosome import Drawing
from tests.composition.label_proof import Bank, Outline, true_types

_SHEET = 110  # pixels: side of the sheet that one rod is drawn on
_HALO = 250  # as in supcam.synthetic: darker is halo
_RIM = 4


def rods_bank(cases: int, seed: int, *, singles: int = 12, pairs: int = 6) -> Bank:
    """Single rods and pairs that touch, of every case so many."""
    rng, bank = np.random.default_rng(seed), Bank()
    for case in range(cases):
        group = f"rods {case}"
        for _ in range(singles):
            tones, body = _rod(rng)
            clean = ndimage.gaussian_filter(tones, rng.uniform(0.7, 1.3))
            drawing = _cut(clean, [(clean, body)])
            bank.add(group, ClusterType.INSTANCE, drawing[0], drawing[1])
        made = 0
        while made < pairs:
            image, outlines = _touching(rng)
            if true_types(outlines, (image.shape[0], image.shape[1])) == {ClusterType.TOUCHING}:
                bank.add(group, ClusterType.TOUCHING, image, outlines)
                made += 1
    return bank


def contact_in(outlines: list[Outline], shape: tuple[int, int]) -> Mask:
    """Where the haloes of two rods meet on a crop of ``shape``."""
    (_, first), (_, second) = (outline.masks(shape) for outline in outlines)
    return dilated(first) & second


def _rod(rng: np.random.Generator) -> tuple[NDArray[np.float64], Mask]:
    """Grey values and body of one rod, slightly bent, in a random pose, on a sheet of its own."""
    length, width = rng.uniform(24, 62), rng.uniform(9, 15)
    along = np.linspace(-length / 2, length / 2, 200)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.6, 0.6) / length * along
    steps = np.diff(along, prepend=along[0])
    line = np.cumsum([np.sin(angle) * steps, np.cos(angle) * steps], axis=1)
    line += _SHEET / 2 - line.mean(axis=1, keepdims=True)
    places = np.indices((_SHEET, _SHEET))[..., None]
    distance = np.hypot(places[0] - line[0], places[1] - line[1])
    tone = np.full(200, rng.uniform(90, 150))
    for _ in range(rng.integers(3, 8)):
        band = np.exp(-(((along - rng.uniform(-length / 2, length / 2)) / rng.uniform(2, 4)) ** 2))
        tone -= rng.uniform(-60, 70) * band
    body: Mask = distance.min(axis=-1) <= width / 2
    return np.where(body, np.clip(tone, 30, 215)[distance.argmin(axis=-1)], 255.0), body


def _touching(rng: np.random.Generator) -> tuple[Grey, list[Outline]]:
    """Two rods, the second moved out from the first until one or two pixels lie between their bodies."""
    (first, near), (second, far) = _rod(rng), _rod(rng)
    blur, turn, gap = rng.uniform(0.7, 1.3), rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.5)
    middle, side = _SHEET // 2, 2 * _SHEET

    def laid(sheet: NDArray[np.float64] | Mask, row: int, column: int, empty: float) -> NDArray[np.float64]:
        out = np.full((side, side), empty)
        out[row : row + _SHEET, column : column + _SHEET] = sheet
        return out

    body = laid(near, middle, middle, 0) > 0
    away = ndimage.distance_transform_edt(~body)
    for reach in range(middle):
        corner = (round(middle + reach * np.sin(turn)), round(middle + reach * np.cos(turn)))
        other = laid(far, *corner, 0) > 0
        if away[other].min() >= gap:
            break
    clean = [ndimage.gaussian_filter(laid(first, middle, middle, 255), blur)]
    clean.append(ndimage.gaussian_filter(laid(second, *corner, 255), blur))
    return _cut(clean[0] * clean[1] / 255, [(clean[0], body), (clean[1], other)])


def _cut(clean: NDArray[np.float64], parts: list[tuple[NDArray[np.float64], Mask]]) -> tuple[Grey, list[Outline]]:
    """The crop around everything drawn, and the outline of each rod on it."""
    rows, columns = ndimage.find_objects((clean < _HALO).astype(np.uint8))[0]
    box = np.s_[max(rows.start - _RIM, 0) : rows.stop + _RIM, max(columns.start - _RIM, 0) : columns.stop + _RIM]
    image = np.round(clean[box]).astype(np.uint8)
    drawings = [Drawing(np.round(tone[box]).astype(np.uint8), body[box], tone[box] < _HALO) for tone, body in parts]
    return image, [Outline(drawing) for drawing in drawings]
