"""Shares, medians and percentiles of small arrays; numpy's general functions take ten times as long for a crop."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def share_of(mask: NDArray[np.bool_]) -> float:
    """Share of a mask that is true, 0-1; 0 for an empty one."""
    return float(np.count_nonzero(mask)) / max(mask.size, 1)


def median_of(values: NDArray[Any]) -> float:
    """Median of values that are all finite, at least one."""
    return percentiles_of(values, 50)[0]


def percentiles_of(values: NDArray[Any], *shares: float) -> list[float]:
    """Percentiles (0-100) of values that are all finite, at least one, with linear interpolation as in numpy."""
    last = values.size - 1
    places = [share / 100 * last for share in shares]
    lower = [int(place) for place in places]
    ordered = np.partition(values.ravel(), lower)
    found = []
    for place, low in zip(places, lower, strict=True):
        below = float(ordered[low])
        above = float(ordered[low + 1 :].min()) if place > low else below
        found.append(below + (above - below) * (place - low))
    return found
