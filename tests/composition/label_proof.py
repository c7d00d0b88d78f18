"""Proof that composed labels are correct, against the drawings' own masks, which the composer never sees.

``python -m tests.composition.label_proof --count 10000`` prints the counts as one JSON object.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite, Placed
from supcam.composition.masks import Grey, Mask
from supcam.composition.sampling import BOTH_CELLS, CELLS, Cell, Plan
from supcam.composition.sources import SourceCrops
from supcam.serving.bodies import dilated
from supcam.settings import ComposeSettings
from supcam.synthetic.chromosome import Drawing
from supcam.synthetic.sample import draw_crops

Matrix: TypeAlias = tuple[float, float, float, float, float, float]

_LEAST_OVERLAP = 0.04  # of the smaller body
_MOST_HIDDEN = 0.5  # of a contact: with more of it below other bodies the touch does not show
_CELL_WRONG = 0.005  # of each cell's clusters and chains may read otherwise before it counts as a failure
# Touches that a crossing can hide: this cell by itself, with drawn clusters and with rods of another hand.
_HIDING = "instance+touching:overlap"
_AGAIN = 2_000  # more cases of a cell that has too many wrong among its first
_CLUSTERS = 10  # sources of each cluster type in a case


@dataclass(frozen=True)
class Outline:
    """One chromosome's true masks as drawn, and where a crop shows them.

    ``matrix`` leads from the crop's pixels back to the drawing's, as Pillow's affine data. Warps of a warp multiply
    matrices, so a mask is sampled once however often its crop was composed.
    """

    drawing: Drawing
    matrix: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def seen_in(self, placed: Placed) -> "Outline":
        """The outline where the composer put it."""
        a, b, c, d, e, f = self.matrix
        p, q, r, s, t, u = placed.matrix
        return Outline(
            self.drawing,
            (a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f),
        )

    def masks(self, shape: tuple[int, int]) -> tuple[Mask, Mask]:
        """True body and halo (H, W) on a crop of ``shape``."""
        return _warped(self.drawing.body, self.matrix, shape), _warped(self.drawing.halo, self.matrix, shape)


@dataclass
class Bank:
    """Source crops with the outlines of the chromosomes they hold."""

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    types: list[ClusterType] = field(default_factory=list)
    images: list[Grey] = field(default_factory=list)
    outlines: list[list[Outline]] = field(default_factory=list)

    def add(self, group: str, kind: ClusterType, image: Grey, outlines: list[Outline]) -> None:
        """Append a crop (H, W) with the outlines of the chromosomes on it."""
        self.ids.append(f"{len(self.ids):05d}")
        self.groups.append(group)
        self.types.append(kind)
        self.images.append(image)
        self.outlines.append(outlines)

    def crops(self) -> SourceCrops:
        """The crops as sources of a composer."""
        labels = np.array([int(kind) for kind in self.types], dtype=np.int64)
        return SourceCrops(pd.DataFrame({"crop_id": self.ids}), list(self.images), labels, list(self.groups))


def true_types(outlines: list[Outline], shape: tuple[int, int]) -> set[ClusterType]:
    """All types that a cluster can be read as by its outlines.

    Two chromosomes overlap when their bodies share at least 4 % of the smaller one; they touch when the bodies share
    no pixel and the haloes meet. Sharing less is a graze: touch or overlap. A touch of which more than half lies below
    other bodies is hidden: touch or nothing.
    """
    bits, graze, doubtful = 0, False, False
    masks = [outline.masks(shape) for outline in outlines]
    for (number, (body, halo)), (partner, (other, rim)) in combinations(enumerate(masks), 2):
        shared = int(np.count_nonzero(body & other))
        if shared >= _LEAST_OVERLAP * min(np.count_nonzero(body), np.count_nonzero(other)):
            bits |= ClusterType.OVERLAPPING
        elif shared:
            graze = True
        elif (contact := dilated(halo) & rim).any():
            below = [third for turn, (third, _) in enumerate(masks) if turn not in (number, partner)]
            hidden = contact & np.any(below, axis=0) if below else np.zeros_like(contact)
            if np.count_nonzero(hidden) > _MOST_HIDDEN * np.count_nonzero(contact):
                doubtful = True
            else:
                bits |= ClusterType.TOUCHING
    readings = {ClusterType.TOUCHING, ClusterType.OVERLAPPING} if graze else {ClusterType.INSTANCE}
    if doubtful:
        readings |= {ClusterType(reading | ClusterType.TOUCHING) for reading in readings}
    return {ClusterType(bits | reading) for reading in readings}


def run_label_proof(count: int = 10_000, seed: int = 0, *, cases: int = 8, per_case: int = 24) -> dict[str, object]:
    """Compose ``count`` clusters evenly over all 30 cells and compare each label with the truth of the drawings.

    A quarter are chains of three to five sources. As many pairs of single chromosomes follow, and a fifth as many each
    of the cell in which a crossing can hide the only touch, of the drawings and of rods. Returns counts of cases and
    failures, of two-chromosome composites and of all others (chains and clusters of clusters), the wrong ones by cell,
    seed and seconds. Failures are wrong pairs, and what is wrong of the others of any cell beyond 0.5 %; a cell that
    has more among its few hundred is composed 2,000 times more and judged by all of them.
    """
    from tests.composition.rods import rods_bank

    begun = time.perf_counter()
    bank, rods = drawn_bank(cases, per_case, seed), rods_bank(cases, seed)
    composer, rodder = (Composer(each.crops(), ComposeSettings()) for each in (bank, rods))
    tally: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    by_cell: dict[str, Counter[bool]] = {}

    def judge(name: str, sources: Bank, made_of: Iterator[tuple[Cell, Composite]]) -> None:
        for cell, made in made_of:
            truth = true_types(outlines_in(made, sources.outlines), _shape(made))
            kind = "pairs" if len(made.parents) == 2 and cell.second is ClusterType.INSTANCE else "chains"
            tally[kind] += 1
            if kind == "chains":
                by_cell.setdefault(cell.label + name, Counter())[truth != {made.type}] += 1
            if truth != {made.type}:
                tally[f"{kind}_wrong"] += 1
                readings = " or ".join(sorted(reading.label for reading in truth))
                wrong[f"{cell.label}{name} of {len(made.parents)}: labelled {made.type.label}, is {readings}"] += 1

    judge("", bank, composites_of(composer, _plans(), count, seed))
    pairs = [Plan(Cell.parse(f"instance+instance:{name}")) for name in ("touch", "overlap")]
    judge("", bank, composites_of(composer, pairs, count, seed + 1))
    hiding = [Plan(Cell.parse(_HIDING))]
    judge("", bank, composites_of(composer, hiding, count // 5, seed + 2))
    judge(" of rods", rods, composites_of(rodder, hiding, count // 5, seed + 3))
    again = [cell for cell in _too_many(by_cell) if not cell.startswith(_HIDING)]
    for cell in again:
        judge("", bank, composites_of(composer, [Plan(Cell.parse(cell))], _AGAIN, seed + 4))
    return {
        "name": "label_proof",
        "cases": tally["pairs"] + tally["chains"],
        "failures": tally["pairs_wrong"] + sum(_too_many(by_cell).values()),
        "pairs": tally["pairs"],
        "pairs_wrong": tally["pairs_wrong"],
        "chains": tally["chains"],
        "chains_wrong": tally["chains_wrong"],
        "chains_correct": 1.0 - tally["chains_wrong"] / max(tally["chains"], 1),
        "hiding": {cell: [found.total(), found[True]] for cell, found in by_cell.items() if cell.startswith(_HIDING)},
        "again": {cell: [by_cell[cell].total(), by_cell[cell][True]] for cell in again},
        "wrong": dict(wrong),
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _too_many(by_cell: dict[str, Counter[bool]]) -> dict[str, int]:
    """By cell, how many are wrong beyond the share that is allowed."""
    allowed = {cell: int(_CELL_WRONG * found.total()) for cell, found in by_cell.items()}
    return {cell: found[True] - allowed[cell] for cell, found in by_cell.items() if found[True] > allowed[cell]}


def outlines_in(made: Composite, outlines: list[list[Outline]]) -> list[Outline]:
    """True outlines of all chromosomes of a composite, from those of its sources by row."""
    return [outline.seen_in(placed) for placed in made.placed for outline in outlines[placed.row]]


def _plans() -> list[Plan]:
    """All cells, three rounds as pairs and one as chains of three, four or five in turn."""
    lengths = [2, 2, 2, 3, 2, 2, 2, 4, 2, 2, 2, 5]
    return [Plan(cell, length) for length in lengths for cell in (*CELLS, *BOTH_CELLS)]


def composites_of(composer: Composer, plans: list[Plan], count: int, seed: int) -> Iterator[tuple[Cell, Composite]]:
    """``count`` composites of the plans in turn, each with its cell."""
    done = attempt = 0
    while done < count:
        plan = plans[done % len(plans)]
        made = composer.compose_plan(plan, np.random.default_rng((seed, 1, attempt)))
        attempt += 1
        if isinstance(made, Composite):
            done += 1
            yield plan.cell, made
        elif attempt > 20 * count + 1000:
            raise RuntimeError(f"only {done} of {count} composites could be made; last reasons: {made.rejected}")


def drawn_bank(cases: int, per_case: int, seed: int) -> Bank:
    """Drawn chromosomes, and clusters composed of them whose labels agree with the outlines."""
    bank = Bank()
    crops, drawings = draw_crops(cases, per_case, seed)
    for group, drawing in zip(crops.groups, drawings, strict=True):
        bank.add(group, ClusterType.INSTANCE, drawing.image, [Outline(drawing)])
    for kind in (ClusterType.TOUCHING, ClusterType.OVERLAPPING, ClusterType.TOUCHING_OVERLAPPING):
        settings = ComposeSettings(target_shares={kind.label: 1.0}, chain_shares=[1.0])
        composer = Composer(bank.crops(), settings)
        made_of: Counter[str] = Counter()
        for index in range(100 * cases * _CLUSTERS):
            made = composer.compose(seed, index)
            if isinstance(made, Composite) and made_of[made.group] < _CLUSTERS and len(made.parents) == 2:
                outlines = outlines_in(made, bank.outlines)
                if true_types(outlines, _shape(made)) == {kind} and len(outlines) <= 3:
                    made_of[made.group] += 1
                    bank.add(made.group, kind, made.image, outlines)
            if sum(made_of.values()) == cases * _CLUSTERS:
                break
    return bank


def _shape(made: Composite) -> tuple[int, int]:
    return made.image.shape[0], made.image.shape[1]


def _warped(mask: Mask, matrix: Matrix, shape: tuple[int, int]) -> Mask:
    image = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    size = (shape[1], shape[0])
    warped = image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    result: Mask = np.asarray(warped) > 127
    return result


def main() -> None:
    """Print the proof's result as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(run_label_proof(options.count, options.seed)))


if __name__ == "__main__":
    main()
