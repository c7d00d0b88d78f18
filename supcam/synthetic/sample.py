"""Drawn crops in numbers: singles of many looks to compose from, and a labelled sample in a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite
from supcam.composition.masks import Grey
from supcam.composition.sampling import PREFERRED
from supcam.composition.sources import SourceCrops
from supcam.errors import SupcamError, UsageError
from supcam.files import is_free, replaced_folder
from supcam.serving.gate import picture_reasons
from supcam.serving.reading import read_grey
from supcam.settings import ComposeSettings, LookRanges
from supcam.synthetic.chromosome import Drawing, draw_chromosome, draw_look
from supcam.synthetic.look import Look
from supcam.synthetic.shape import KINDS

# Clean G-bands: dark, in focus, closed chromatids, cut at a light level. For proofs that compare crops with masks.
PLAIN = LookRanges(
    width=(10.8, 11.6), slenderness=(4.0, 5.0), bend=(0.4, 0.9), kinks=(0.0, 0.1), open_share=(0.0, 0.0),
    groove=(0.4, 0.6), waist=(0.2, 0.3), roundness=(0.0, 0.1), unevenness=(0.0, 0.0), banded=1.0,
    light_bands=(0.45, 0.55), pale_gaps=(0.0, 0.0), spots=(0.0, 0.0), seam=(0.0, 0.0), sisters=(0.0, 0.0),
    mottle=(0.0, 0.0), pale_tips=(0.0, 0.0), fluorescent=0.0, density=(1.3, 1.9), blur=(0.6, 0.9), halo=(0.05, 0.15),
    sharpening=(0.0, 0.0), grain=(0.02, 0.05), noise=(0.0, 0.5), black=(30.0, 60.0), stretched=0.0, shading=(0.0, 0.05),
    few_levels=0.0, jpeg=0.0, masked=0.0, cut_level=(248.0, 250.0),
)  # fmt: skip
_SHARES = (0.45, 0.25, 0.17, 0.13)  # of the sample, by ClusterType
_SPARE_CLUSTERS = 8  # clusters of either kind, drawn to become touching-overlapping ones
_TRIES = 20  # composites tried for each one wanted


def draw_crops(cases: int, per_case: int, seed: int, ranges: LookRanges = PLAIN) -> tuple[SourceCrops, list[Drawing]]:
    """``per_case`` single chromosomes of each of ``cases`` cases, as sources and as drawings with their masks."""
    drawings: list[Drawing] = []
    names: list[str] = []
    groups: list[str] = []
    for case in range(cases):
        drawings += draw_look(ranges, seed, case, per_case)
        names += [f"case{case + 1:02d}-{number:04d}" for number in range(per_case)]
        groups += [f"case{case + 1:02d}"] * per_case
    images = [drawing.image for drawing in drawings]
    frame = pd.DataFrame({"crop_id": names})
    return SourceCrops(frame, images, np.zeros(len(images), dtype=np.int64), groups), drawings


def synthesize(
    out: Path,
    *,
    cases: int = 12,
    crops: int = 720,
    seed: int = 42,
    counts: Sequence[int] | None = None,
    ranges: LookRanges | None = None,
) -> pd.DataFrame:
    """Draw a sample of ``crops`` crops in ``cases`` cases into ``out``: ``images/`` and ``labels.csv``.

    ``counts`` gives the number of each type, in the order of ``ClusterType``, in place of ``crops``.
    ``ranges`` are those of the looks of cases; None means all of the default ones.
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
    if not is_free(out):
        raise UsageError(f"{out} is not an empty folder. Name another folder, or remove this one first.")
    with replaced_folder(out) as folder:
        rows = [
            row
            for case in range(cases)
            for row in _write_case(folder, case, _case_counts(case, cases, totals), seed, ranges or LookRanges())
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


def _write_case(root: Path, case: int, counts: list[int], seed: int, ranges: LookRanges) -> list[tuple[str, str, str]]:
    name = f"case{case + 1:02d}"
    folder = root / "images" / name
    folder.mkdir(parents=True)
    images = _case_images(case, counts, seed, ranges)
    rows = []
    for number, (kind, image) in enumerate(images, start=1):
        path = folder / f"{number:03d}.png"
        Image.fromarray(image).save(path, optimize=True)
        rows.append((path.relative_to(root).as_posix(), kind.label, name))
    return rows


def _case_images(case: int, counts: list[int], seed: int, ranges: LookRanges) -> list[tuple[ClusterType, Grey]]:
    """Singles of every kind, then clusters composed from other drawings of the same case."""
    look = Look.draw(ranges, np.random.default_rng((seed, case)))
    rng = np.random.default_rng((seed, case, 2))
    crops = [(ClusterType.INSTANCE, draw_chromosome(i % len(KINDS), look, rng).image) for i in range(counts[0])]
    spare = [(ClusterType.INSTANCE, draw_chromosome(i % len(KINDS), look, rng).image) for i in range(2 * len(KINDS))]
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
    settings = ComposeSettings(target_shares={kind.label: 1.0}, cells=list(PREFERRED))
    composer = Composer(crops, settings)
    rng = np.random.default_rng(seed)
    clusters: list[tuple[ClusterType, Grey]] = []
    for _ in range(_TRIES * count):
        if len(clusters) == count:
            break
        plan = composer.policy.plan(rng)
        made = composer.compose_plan(plan, rng) if plan else None
        # A chain of long chromosomes may be larger than what passes for a crop: as in a laboratory, it is none.
        if isinstance(made, Composite) and not picture_reasons(read_grey(made.image).measurements):
            clusters.append((kind, made.image))
    if len(clusters) < count:
        raise SupcamError(f"only {len(clusters)} of {count} {kind.label} crops could be drawn. Try another seed.")
    return clusters
