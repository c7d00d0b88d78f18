"""How alike two crops are to the model."""

from supcam.serving.images import letterbox
from tests.support.drawing import Grey


def agreement(one: Grey, other: Grey) -> float:
    """Intersection over union of what the model sees as dark."""
    first, second = letterbox(one, 64) < 230, letterbox(other, 64) < 230
    return float((first & second).sum() / max(1, (first | second).sum()))
