"""The angular margin on cosines."""

import math

import torch
from torch import Tensor

SINE_FLOOR = 1e-7


def margin_map(cosine: Tensor, margin: float) -> Tensor:
    """Cosine of the angle widened by ``margin``, without passing through the angle.

    Above ``-cos(margin)`` this is cos(theta + margin); below, where the widened angle would leave [0, pi], the line
    c - (1 - cos margin) goes on from it continuously and still rising, as additive angular margins do (Deng et al.,
    ArcFace, 2019).

    Args:
        cosine: Cosines of any shape; values slightly outside [-1, 1] are fine.
        margin: Radians, 0 <= margin < pi/2; 0 returns ``cosine`` itself.

    Raises:
        ValueError: for a margin out of range.
    """
    if not 0.0 <= margin < math.pi / 2:
        raise ValueError(f"margin {margin} is out of range; allowed are 0 to below pi/2 radians")
    if margin == 0.0:
        return cosine
    near = math.cos(margin)
    sine = (1.0 - cosine.square()).clamp(min=SINE_FLOOR).sqrt()
    return torch.where(cosine > -near, cosine * near - sine * math.sin(margin), cosine - (1.0 - near))
