"""What to label next: of crops without labels, those whose labels would help the next model most."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.serving.engine import PROBABILITY_COLUMNS
from supcam.serving.gate import UNLIKE_TRAINING
from supcam.serving.images import ImageError, decode_crop
from supcam.serving.novelty import STATISTICS, statistics_of

Floats = NDArray[np.float64]

_CANDIDATES = 4  # for each place: among so many of the least certain crops the different ones are chosen


def choose(
    probabilities: Floats, features: Floats, count: int, *, unlike: NDArray[np.bool_] | None = None
) -> list[int]:
    """Indices of the ``count`` crops to label, types in turn, the rarest suggested type first.

    Each suggested type gets as many places, for rare types are what a random choice misses; what one cannot fill goes
    to the others. Its places go to its least certain crops (margin sampling: Scheffer, Decomain and Wrobel, IDA 2001;
    crops ``unlike`` those of training count as quite uncertain) and, among four times as many as it has places, to
    ones that differ: the least certain of each cluster of k-means (Zhdanov, arXiv 1901.05954, 2019).

    Args:
        probabilities: (N, 4) of a model that saw none of the crops.
        features: (N, K) finite, of the pictures, of comparable scale: what makes crops differ.
        count: How many, at most N.
        unlike: (N,), crops unlike those that the model was trained on.
    """
    two = np.sort(probabilities, axis=1)[:, -2:]
    certainty = two[:, 1] - two[:, 0]
    if unlike is not None:
        certainty = np.where(unlike, -1.0, certainty)
    suggested = probabilities.argmax(axis=1)
    order = np.argsort(certainty, kind="stable")
    by_type = [order[suggested[order] == kind] for kind in range(len(TYPE_LABELS))]
    places = _places([len(crops) for crops in by_type], count)
    chosen = [
        _different(crops[: _CANDIDATES * place], features, place) for crops, place in zip(by_type, places, strict=True)
    ]
    rank = [(at, len(by_type[kind]), index) for kind, crops in enumerate(chosen) for at, index in enumerate(crops)]
    return [index for _, _, index in sorted(rank)]


def statistics_of_files(paths: Sequence[str]) -> Floats:
    """Greys, texture and outline of pictures (N, K), see :mod:`supcam.serving.novelty`; NaN where one is unreadable."""
    rows = []
    for path in paths:
        try:
            rows.append(statistics_of(decode_crop(Path(path))))
        except ImageError:
            rows.append(np.full(len(STATISTICS), np.nan))
    return np.array(rows, dtype=np.float64).reshape(-1, len(STATISTICS))


def select(answers: pd.DataFrame, features: Floats, count: int) -> pd.DataFrame:
    """Rows of ``answers`` (as ``supcam predict`` writes them) to label, in order; crops without a type are left out.

    ``features`` (N, K) belong to the rows of ``answers``; NaN where a picture could not be read.
    """
    usable = (answers["type"] != "").to_numpy(dtype=bool) & np.isfinite(features).all(axis=1)
    rows, found = answers[usable].reset_index(drop=True), features[usable]
    if rows.empty:
        return rows
    scale = found.std(axis=0)
    unlike = rows["reason"].str.contains(UNLIKE_TRAINING, regex=False).to_numpy()
    probabilities = rows[list(PROBABILITY_COLUMNS)].to_numpy(dtype=np.float64)
    chosen = choose(probabilities, (found - found.mean(axis=0)) / np.where(scale, scale, 1), count, unlike=unlike)
    return rows.iloc[chosen].reset_index(drop=True)


def _places(available: list[int], count: int) -> list[int]:
    """How many crops of each type are chosen: equally many, as far as there are as many, the rarest type first."""
    places = [0] * len(available)
    for left, kind in enumerate(sorted(range(len(available)), key=lambda kind: available[kind])):
        places[kind] = min(available[kind], round((count - sum(places)) / (len(available) - left)))
    return places


def _different(crops: NDArray[np.int64], features: Floats, count: int) -> list[int]:
    """Of ``crops`` (M,), the least certain first, the first one of each of ``count`` clusters, in the same order."""
    from sklearn.cluster import KMeans

    if len(crops) <= count:
        return [int(index) for index in crops]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of equal crops there are fewer clusters
        cluster = KMeans(count, n_init=1, random_state=0).fit_predict(features[crops])
    first = {int(number): at for at, number in reversed(list(enumerate(cluster)))}
    rest = [at for at in range(len(crops)) if at not in set(first.values())]  # equal crops share a cluster
    return [int(crops[at]) for at in sorted([*first.values(), *rest[: count - len(first)]])]
