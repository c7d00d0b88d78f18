"""How good segmentations are: panoptic quality and AP50 over chromosomes, with intervals over pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from methods import Masks
from scipy.optimize import linear_sum_assignment

MATCH = 0.5


@dataclass(frozen=True)
class Counts:
    """What a segmentation found: true, false and missed chromosomes, and the sum of IoU of the true ones."""

    true: int
    false: int
    missed: int
    iou: float


def inside(found: Masks, truth: Masks) -> Masks:
    """Chromosomes (N, H, W) within the cluster, whose place is known; those that lie outside of it are left out."""
    found = found & truth.any(axis=0)
    return found[found.any(axis=(1, 2))]


def compare(found: Masks, truth: Masks) -> Counts:
    """Match chromosomes (N, H, W) one to one so that IoU is largest; those above 0.5 are true.

    Chromosomes may share pixels, so IoU above 0.5 alone does not make a match unique.
    """
    one, other = (masks.reshape(len(masks), -1).astype(np.float64) for masks in (found, truth))
    both = one @ other.T
    iou = both / (one.sum(axis=1)[:, np.newaxis] + other.sum(axis=1) - both)
    rows, columns = linear_sum_assignment(-iou)
    matched = iou[rows, columns]
    matched = matched[matched > MATCH]
    return Counts(len(matched), len(found) - len(matched), len(truth) - len(matched), float(matched.sum()))


def panoptic(counts: Sequence[Counts]) -> float:
    """Sum of IoU of true chromosomes over true plus half of false and missed ones (Kirillov et al., CVPR 2019)."""
    total = _sums(counts)
    return float(total[3] / max(total[0] + (total[1] + total[2]) / 2, 1e-9))


def ap50(counts: Sequence[Counts]) -> float:
    """True over true, false and missed chromosomes at IoU 0.5, as for segmentations without scores (StarDist)."""
    total = _sums(counts)
    return float(total[0] / max(total[:3].sum(), 1e-9))


def _sums(counts: Sequence[Counts]) -> np.ndarray:
    return np.array([(one.true, one.false, one.missed, one.iou) for one in counts]).reshape(-1, 4).sum(axis=0)


def intervals(
    by_picture: Sequence[Sequence[Sequence[Counts]]], rounds: int = 1000, seed: int = 0
) -> list[dict[str, tuple[float, float, float]]]:
    """PQ and AP50 of several methods with 95 % intervals from resampled pictures, and each method minus the first.

    Args:
        by_picture: For each method, for each picture, the counts of its objects; pictures in one order.
        rounds: Samples of pictures, the same for all methods.
        seed: Of the samples.

    Returns:
        For each method ``pq``, ``ap50``, ``pq_less``, ``ap50_less``: value, low, high.
    """
    sums = np.array([[_sums(counts) for counts in method] for method in by_picture])
    samples = np.random.default_rng(seed).integers(sums.shape[1], size=(rounds, sums.shape[1]))
    drawn = np.concatenate([sums.sum(axis=1)[:, np.newaxis], sums[:, samples].sum(axis=2)], axis=1)
    true, false, missed, iou = np.moveaxis(drawn, 2, 0)
    rows = []
    values = {"pq": iou / (true + (false + missed) / 2), "ap50": true / (true + false + missed)}
    for method in range(len(by_picture)):
        row = {}
        for name, value in values.items():
            for key, each in ((name, value[method]), (f"{name}_less", value[method] - value[0])):
                low, high = np.percentile(each[1:], (2.5, 97.5))
                row[key] = (float(each[0]), float(low), float(high))
        rows.append(row)
    return rows
