"""Drawn G-band-like chromosomes, and a labelled sample of crops made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import erf

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite
from supcam.composition.masks import WHITE, Grey, Mask, bounding_box
from supcam.composition.sampling import PREFERRED
from supcam.composition.sources import SourceCrops
from supcam.errors import SupcamError, UsageError
from supcam.files import replaced_folder
from supcam.settings import ComposeSettings

# Relative length (% of the haploid autosomes) and centromere position of chromosomes 1-22, X, Y: the standard human
# idiogram (ISCN), rounded. Bands are invented, one fixed pattern for each kind.
_KINDS: tuple[tuple[float, float], ...] = (
    (8.4, 0.48), (8.0, 0.39), (6.8, 0.47), (6.3, 0.29), (6.1, 0.29), (5.9, 0.39), (5.4, 0.39), (4.9, 0.34),
    (4.8, 0.35), (4.6, 0.34), (4.6, 0.40), (4.7, 0.30), (3.7, 0.17), (3.6, 0.19), (3.5, 0.20), (3.3, 0.41),
    (3.2, 0.34), (2.9, 0.31), (2.7, 0.47), (2.6, 0.45), (1.9, 0.31), (2.0, 0.30), (5.1, 0.40), (2.2, 0.27),
)  # fmt: skip
_PIXELS_PER_SHARE = 11.0  # length in pixels of one per cent of the karyotype at condensation 1
_SHARES = (0.45, 0.25, 0.17, 0.13)  # of the sample, by ClusterType
_STEP = 0.5  # pixels between points of a centre line
_CANVAS = 120  # longest side of a cluster, pixels
_SPARE_CLUSTERS = 8  # clusters of either kind, drawn to become touching-overlapping ones
_TRIES = 20  # composites tried for each one wanted
_CUT = 248.5  # lighter than this the camera's background correction leaves white


@dataclass(frozen=True)
class CaseLook:
    """What the crops of one case share: stain, focus and condensation."""

    contrast: float  # optical density of the darkest bands
    light: float  # optical density of light bands, as a part of ``contrast``
    blur: float  # standard deviation of the optics, pixels
    condensation: float  # short and thick above 1
    bend: float  # how far chromosomes curve, radians over their length
    grain: float  # standard deviation of the stain's grain, optical density

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "CaseLook":
        """A look within the range that clinical slides show."""
        contrast, light, blur, condensation, bend, grain = rng.random(6)
        return cls(
            1.2 + 0.7 * contrast,
            0.19 + 0.1 * light,
            0.6 + 0.5 * blur,
            0.85 + 0.35 * condensation,
            0.6 + 0.8 * bend,
            0.04 + 0.06 * grain,
        )


@dataclass(frozen=True)
class Drawing:
    """One drawn chromosome: the crop, and the masks of its formula before grain and rounding, all (H, W).

    ``body`` is the outline (half of the edge's density), ``halo`` where the clean drawing is darker than 250.
    """

    image: Grey
    body: Mask
    halo: Mask


def draw_chromosome(kind: int, look: CaseLook, rng: np.random.Generator) -> Drawing:
    """Draw chromosome ``kind`` (0-23) of a case in a random pose, on a tight crop with white background 255."""
    share, centromere = _KINDS[kind]
    length = share * _PIXELS_PER_SHARE / look.condensation * rng.uniform(0.92, 1.08)
    width = 5.4 * look.condensation**0.4 * rng.uniform(0.95, 1.05)
    points = _centre_line(max(length - 2 * width, 4.0), look.bend, rng)
    margin = width + 6
    points += margin - points.min(axis=0)
    columns, rows = np.ceil(points.max(axis=0) + margin).astype(int)
    y, x = np.mgrid[:rows, :columns]
    distance, nearest = cKDTree(points).query(np.column_stack((x.ravel(), y.ravel())))
    along = nearest.reshape(rows, columns) / max(len(points) - 1, 1)
    across = distance.reshape(rows, columns)
    radius = width * _outline(along, centromere, length)
    clean = _density(kind, along, across, radius, look)
    grain = ndimage.gaussian_filter(rng.standard_normal(clean.shape), 0.8) * 2.8 * look.grain
    image = _exposed(clean * np.maximum(1.0 + grain / look.contrast * 1.6, 0.2))
    body, halo = across <= radius, _exposed(clean) < 250
    box = _tight(image < WHITE)
    return Drawing(image[box], body[box], halo[box])


def _centre_line(length: float, bend: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points (N, 2) as (x, y), ``_STEP`` apart, of a smoothly curving line of ``length`` pixels in a random pose."""
    count = max(int(length / _STEP), 2)
    s = np.linspace(0.0, 1.0, count)
    reach = min(length / 45.0, 1.4)  # short chromosomes hardly bend
    arc, wave, phase, kink, shift = rng.normal(size=5)
    turn = reach * bend * (0.8 * arc * s + 0.3 * wave * np.sin(2 * np.pi * (s + phase)))
    turn += reach * bend * 0.5 * kink / (1.0 + np.exp(-(s - 0.5 - 0.1 * shift) * 14.0))
    turn += rng.uniform(0.0, 2 * np.pi)
    return np.cumsum(np.column_stack((np.cos(turn), np.sin(turn))) * _STEP, axis=0)


def _outline(along: NDArray[np.float64], centromere: float, length: float) -> NDArray[np.float64]:
    """Half width, as a part of the full one: a waist at the centromere, slightly slimmer ends."""
    waist = np.exp(-(((along - centromere) * length / 3.2) ** 2))
    ends = np.exp(-np.minimum(along, 1.0 - along) * length / 2.5)
    outline: NDArray[np.float64] = 1.0 - 0.3 * waist - 0.08 * ends
    return outline


def _density(
    kind: int, along: NDArray[np.float64], across: NDArray[np.float64], radius: NDArray[np.float64], look: CaseLook
) -> NDArray[np.float64]:
    """Optical density of the clean drawing: banded inside, falling over the edge into a short grey halo."""
    profile = _bands(kind)
    bands = profile[np.round(along * (profile.size - 1)).astype(int)]
    # The two chromatids: dark bands are spots to the left and right of the middle.
    chromatids = 1.0 - 0.3 * bands * np.exp(-((across / (0.33 * radius)) ** 2))
    inside = look.contrast * (look.light + (1.0 - look.light) * bands * chromatids)
    edge = 0.5 * (1.0 - erf((across - radius) / (np.sqrt(2.0) * look.blur)))
    halo = 0.1 * np.exp(-np.maximum(across - radius, 0.0) / 1.3)
    density = np.maximum(ndimage.gaussian_filter(inside, look.blur) * edge, halo)
    return np.asarray(density)


@lru_cache(maxsize=len(_KINDS))
def _bands(kind: int) -> NDArray[np.float64]:
    """Darkness 0-1 at 400 places along chromosome ``kind``: 3 to 12 dark bands, the same in every case."""
    rng = np.random.default_rng((24, kind))
    count = round(2 + _KINDS[kind][0] * 1.15)
    places = (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count
    s = np.linspace(0.0, 1.0, 400)[:, None]
    half = rng.uniform(0.16, 0.36, count) / count
    strength = rng.choice([0.45, 0.7, 1.0], count, p=[0.25, 0.35, 0.4])
    profile = (strength * np.exp(-(((s - places) / half) ** 4))).max(axis=1)
    return np.asarray(profile)


def _exposed(density: NDArray[np.float64]) -> Grey:
    grey = np.round(np.clip(255.0 * np.exp(-density), 40.0, 255.0))
    return np.where(grey > _CUT, WHITE, grey).astype(np.uint8)


def _tight(mask: Mask) -> tuple[slice, slice]:
    """The box of a mask with a pixel around it."""
    rows, columns = bounding_box(mask)
    return slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1)


def draw_crops(cases: int, per_case: int, seed: int) -> tuple[SourceCrops, list[Drawing]]:
    """``per_case`` single chromosomes of each of ``cases`` cases, as sources and as drawings with their masks."""
    drawings, names, groups = [], [], []
    for case in range(cases):
        look = CaseLook.draw(np.random.default_rng((seed, case)))
        rng = np.random.default_rng((seed, case, 1))
        for number in range(per_case):
            drawings.append(draw_chromosome(int(rng.integers(len(_KINDS))), look, rng))
            names.append(f"case{case + 1:02d}-{number:04d}")
            groups.append(f"case{case + 1:02d}")
    images = [drawing.image for drawing in drawings]
    frame = pd.DataFrame({"crop_id": names})
    return SourceCrops(frame, images, np.zeros(len(images), dtype=np.int64), groups), drawings


def synthesize(
    out: Path, *, cases: int = 12, crops: int = 720, seed: int = 42, counts: Sequence[int] | None = None
) -> pd.DataFrame:
    """Draw a sample of ``crops`` crops in ``cases`` cases into ``out``: ``images/`` and ``labels.csv``.

    ``counts`` gives the number of each type, in the order of ``ClusterType``, in place of ``crops``.
    Returns the table that ``labels.csv`` holds: path, type, case. The same arguments give the same bytes.

    Raises:
        UsageError: when ``out`` is not an empty folder, fewer than one crop of each type fits into each case, or
            ``counts`` are not four numbers of at least the number of cases.
    """
    totals = _shared_out(crops) if counts is None else list(counts)
    if counts is not None and (len(totals) != len(ClusterType) or min(totals) < cases):
        raise UsageError(
            f"counts {totals} in {cases} cases: four numbers, each at least the number of cases, are needed."
        )
    crops = sum(totals)
    if cases < 1 or crops < 8 * cases:
        raise UsageError(f"crops = {crops} in {cases} cases: at least 8 crops a case and one case are needed.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder. Name another folder, or remove this one first.")
    with replaced_folder(out) as folder:
        rows = [
            row for case in range(cases) for row in _write_case(folder, case, _case_counts(case, cases, totals), seed)
        ]
        table = pd.DataFrame(rows, columns=["path", "type", "case"])
        table.to_csv(folder / "labels.csv", index=False, lineterminator="\n")
    return table


def _shared_out(crops: int) -> list[int]:
    """``crops`` by type in the sample's shares."""
    edges = np.round(np.cumsum((0.0, *_SHARES)) * crops).astype(int)
    return [int(total) for total in np.diff(edges)]


def _case_counts(case: int, cases: int, totals: Sequence[int]) -> list[int]:
    """Crops of each type in this case; over all cases they add up to ``totals``."""
    return [int(total * (case + 1) // cases - total * case // cases) for total in totals]


def _write_case(root: Path, case: int, counts: list[int], seed: int) -> list[tuple[str, str, str]]:
    name = f"case{case + 1:02d}"
    folder = root / "images" / name
    folder.mkdir(parents=True)
    images = _case_images(case, counts, seed)
    rows = []
    for number, (kind, image) in enumerate(images, start=1):
        path = folder / f"{number:03d}.png"
        Image.fromarray(image).save(path, optimize=True)
        rows.append((path.relative_to(root).as_posix(), kind.label, name))
    return rows


def _case_images(case: int, counts: list[int], seed: int) -> list[tuple[ClusterType, Grey]]:
    """Singles of every kind, then clusters composed from other drawings of the same case."""
    look = CaseLook.draw(np.random.default_rng((seed, case)))
    rng = np.random.default_rng((seed, case, 2))
    crops = [(ClusterType.INSTANCE, draw_chromosome(i % len(_KINDS), look, rng).image) for i in range(counts[0])]
    spare = [(ClusterType.INSTANCE, draw_chromosome(i % len(_KINDS), look, rng).image) for i in range(2 * len(_KINDS))]
    parts = _clusters(spare, ClusterType.TOUCHING, _SPARE_CLUSTERS, (seed, case, 3))
    parts += _clusters(spare, ClusterType.OVERLAPPING, _SPARE_CLUSTERS, (seed, case, 4))
    crops += _clusters(spare, ClusterType.TOUCHING, counts[1], (seed, case, 5))
    crops += _clusters(spare, ClusterType.OVERLAPPING, counts[2], (seed, case, 6))
    crops += _clusters(spare + parts, ClusterType.TOUCHING_OVERLAPPING, counts[3], (seed, case, 7))
    return crops


def _clusters(
    sources: list[tuple[ClusterType, Grey]], kind: ClusterType, count: int, seed: tuple[int, ...]
) -> list[tuple[ClusterType, Grey]]:
    labels = np.array([int(label) for label, _ in sources], dtype=np.int64)
    frame = pd.DataFrame({"crop_id": [str(i) for i in range(len(sources))]})
    crops = SourceCrops(frame, [image for _, image in sources], labels, [""] * len(sources))
    settings = ComposeSettings(target_shares={kind.label: 1.0}, canvas=_CANVAS, cells=list(PREFERRED))
    composer = Composer(crops, settings)
    rng = np.random.default_rng(seed)
    clusters: list[tuple[ClusterType, Grey]] = []
    for _ in range(_TRIES * count):
        if len(clusters) == count:
            break
        plan = composer.policy.plan(rng)
        made = composer.compose_plan(plan, rng) if plan else None
        if isinstance(made, Composite):
            clusters.append((kind, made.image))
    if len(clusters) < count:
        raise SupcamError(f"only {len(clusters)} of {count} {kind.label} crops could be drawn. Try another seed.")
    return clusters
