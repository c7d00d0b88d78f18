"""Slow references of the losses: one loop per slot, plain floats, written from the formulas."""

import math

from torch import Tensor


def looped_margin(cosine: float, margin: float) -> float:
    """cos(theta + m) through the angle where it exists, the continuing line below."""
    if margin == 0.0:
        return cosine
    if cosine > -math.cos(margin):
        return math.cos(math.acos(min(max(cosine, -1.0), 1.0)) + margin)
    return cosine - (1.0 - math.cos(margin))


def looped_rows(
    query: Tensor,
    key: Tensor,
    labels: Tensor,
    queue: Tensor,
    queue_labels: Tensor,
    valid: Tensor,
    *,
    margin: float,
    margin_on: str,
    base: str,
    temperature: float,
) -> list[float]:
    """Loss of every row."""
    losses = []
    for row in range(len(query)):
        positives, negatives = [], []
        slots = [(key[row], None)] + [(queue[j], int(queue_labels[j])) for j in range(len(queue)) if valid[j]]
        for number, (vector, label) in enumerate(slots):
            cosine = sum(float(a) * float(b) for a, b in zip(query[row], vector, strict=True))
            is_positive = number == 0 or label == int(labels[row])
            widened = is_positive and (margin_on == "all" or (margin_on == "self" and number == 0))
            logit = (looped_margin(cosine, margin) if widened else cosine) / temperature
            (positives if is_positive else negatives).append(logit)
        if base == "unified":
            pairs = sum(math.exp(n - p) for n in negatives for p in positives)
            losses.append(math.log(1.0 + pairs))
        else:
            total = math.log(sum(math.exp(v) for v in positives + negatives))
            losses.append(sum(total - p for p in positives) / len(positives))
    return losses
