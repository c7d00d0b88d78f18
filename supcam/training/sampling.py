"""Which crops make up each batch of an epoch: balanced over types and laboratories, the same on every process."""

import math

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import ClusterType
from supcam.training.crop_bank import CropBank

FEW = 5


def type_shares(labels: NDArray[np.int64], balance: float, min_instance_share: float) -> NDArray[np.float64]:
    """Share (4,) of each type in a batch, of class indices (N,).

    ``balance`` 0 keeps the frequencies of the data, 1 makes all present types equally frequent. The least share of
    instance crops, 0 to 1, is ignored where there are none.
    """
    counts = np.bincount(labels, minlength=len(ClusterType)).astype(np.float64)
    shares = np.where(counts > 0, np.maximum(counts, 1.0) ** (1.0 - balance), 0.0)
    shares /= shares.sum()
    instances = shares[ClusterType.INSTANCE]
    if 0.0 < instances < min_instance_share:
        shares *= (1.0 - min_instance_share) / (1.0 - instances)
        shares[ClusterType.INSTANCE] = min_instance_share
    return shares


def real_crops(bank: CropBank) -> NDArray[np.int64]:
    """Numbers of the real crops, and of composites of types of which there are hardly any others.

    Those fill a type up to ``FEW`` crops, so that it is neither forgotten nor a few crops learned by heart. Where no
    crop is real these are all.
    """
    if bank.composed.all():
        return np.arange(len(bank))
    labels = bank.labels.cpu().numpy()
    chosen = [np.flatnonzero(~bank.composed)]
    for label in range(len(ClusterType)):
        missing = FEW - int((labels[chosen[0]] == label).sum())
        chosen.append(np.flatnonzero(bank.composed & (labels == label))[: max(missing, 0)])
    return np.concatenate(chosen)


def drawn_or_others(bank: CropBank, drawn: bool) -> NDArray[np.int64]:
    """Numbers of the drawn crops and their composites, or of all others."""
    return np.flatnonzero(bank.drawn == drawn)


def crop_probabilities(
    bank: CropBank, label: int, among: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Crops of one type and the probability of each; a laboratory counts by the square root of its crops.

    ``among`` (M,) are the numbers of the crops to choose from; None means all.
    """
    rows = np.arange(len(bank)) if among is None else among
    chosen = rows[bank.labels.cpu().numpy()[rows] == label]
    weights = bank.weights[chosen].copy()
    domains = bank.domains[chosen]
    for domain in np.unique(domains):
        inside = domains == domain
        weights[inside] /= math.sqrt(weights[inside].sum())
    return chosen, weights / weights.sum()


def draw(
    crops: NDArray[np.int64], probabilities: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Systematic sample of ``count`` crops: each comes up its expected number of times, rounded up or down."""
    edges = np.cumsum(probabilities[order := rng.permutation(len(crops))])
    points = (rng.random() + np.arange(count)) / count * edges[-1]
    found = np.minimum(np.searchsorted(edges, points, side="right"), len(crops) - 1)
    return rng.permutation(crops[order][found])


def steps_of(crops: int, batch_size: int) -> int:
    """Number of batches of an epoch over so many crops, at least one."""
    return max(1, round(crops / batch_size))


def epoch_plan(
    bank: CropBank,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    balance: float,
    min_instance_share: float,
    among: NDArray[np.int64] | None = None,
    steps: int | None = None,
) -> NDArray[np.int64]:
    """Crop indices (steps, batch_size) of an epoch, a function of its arguments alone.

    Every batch holds the types in their shares up to rounding, and at least ``min_instance_share`` instance crops.
    ``among`` (M,) are the numbers of the crops to draw from; None means all. Without ``steps`` there are as many
    batches as these crops fill.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = np.arange(len(bank)) if among is None else among
    steps = steps or steps_of(len(rows), batch_size)
    shares = type_shares(bank.labels.cpu().numpy()[rows], balance, min_instance_share)
    quotas = _quotas(shares, steps, batch_size, min_instance_share)
    plan: list[list[NDArray[np.int64]]] = [[] for _ in range(steps)]
    for label in np.flatnonzero(quotas.sum(axis=0)):
        drawn = draw(*crop_probabilities(bank, int(label), rows), int(quotas[:, label].sum()), rng)
        for step, part in enumerate(np.split(drawn, np.cumsum(quotas[:, label])[:-1])):
            plan[step].append(part)
    return np.stack([rng.permutation(np.concatenate(parts)) for parts in plan])


def _quotas(shares: NDArray[np.float64], steps: int, batch_size: int, min_instance_share: float) -> NDArray[np.int64]:
    """Number of crops (steps, 4) of each type in each batch; rows add up to the batch size."""
    least = math.ceil(min_instance_share * batch_size - 1e-9) if shares[ClusterType.INSTANCE] > 0 else 0
    quotas = np.zeros((steps, len(shares)), dtype=np.int64)
    owed = np.zeros(len(shares))
    for step in range(steps):
        owed += shares * batch_size
        row = np.maximum(np.floor(owed), 0).astype(np.int64)
        row[ClusterType.INSTANCE] = max(row[ClusterType.INSTANCE], least)
        while (missing := batch_size - row.sum()) != 0:
            gap = np.where(shares > 0, owed - row, -np.inf if missing > 0 else np.inf)
            if missing < 0:  # the instance floor took a place: give one back from the type furthest ahead
                gap = np.where((row > 0) & (np.arange(len(row)) != ClusterType.INSTANCE), gap, np.inf)
            row[gap.argmax() if missing > 0 else gap.argmin()] += 1 if missing > 0 else -1
        quotas[step] = row
        owed -= row
    return quotas
