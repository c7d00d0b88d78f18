"""The unified contrastive loss (Dai et al., arXiv 2103.10773), from its formula."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """Log-sum-exp (B,) of each row's masked values (B, M); a row without any gives 0 and no gradient.

    The caller says what an empty row means: minus infinity here would turn gradients into NaN.
    """
    some = mask.any(dim=1)
    filled = torch.where(mask, values, torch.finfo(values.dtype).min)
    return torch.where(some, torch.where(some[:, None], filled, 0.0).logsumexp(dim=1), 0.0)


def unified_loss(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Loss of each row: softplus(LSE over negatives + LSE over minus positives).

    Args:
        logits: (B, M) similarities divided by the temperature, margin applied.
        positive: (B, M) bool; every row has at least one.
        negative: (B, M) bool, disjoint from ``positive``; slots in neither are ignored.

    Returns:
        (B,) losses; exactly 0 for a row without negatives.
    """
    loss = softplus(masked_logsumexp(logits, negative) + masked_logsumexp(-logits, positive))
    return torch.where(negative.any(dim=1), loss, 0.0)
