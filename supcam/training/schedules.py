"""Learning rate, margin and averaging as functions of the step."""

import math


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Factor on the base rate at ``step`` of ``steps``: linear over the ``warmup`` share, then a half cosine to 0."""
    if step >= steps:
        return 0.0
    rising = max(1, round(warmup * steps))
    if warmup > 0.0 and step < rising:
        return (step + 1) / rising
    start = rising if warmup > 0.0 else 0
    done = (step - start) / (steps - start)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def margin_at(step: int, steps: int, margin: float, warmup: float) -> float:
    """Margin (radians) at ``step`` of ``steps``: a line from 0 to ``margin`` over the ``warmup`` share."""
    rising = warmup * steps
    return margin if step >= rising else margin * step / rising


def averaging_decay(updates: int, decay: float) -> float:
    """Decay of averaged weights after ``updates`` updates; small at first, so early weights are soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))
