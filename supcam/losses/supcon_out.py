"""The supervised contrastive loss with the sum outside the logarithm (Khosla et al. 2020, eq. 2)."""

import torch
from torch import Tensor

from supcam.losses.unified import masked_logsumexp


def supcon_out_loss(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Loss of each row: minus the mean over positives of (logit - LSE over all valid slots).

    Args:
        logits: (B, M) similarities divided by the temperature, margin applied.
        positive: (B, M) bool; every row has at least one.
        negative: (B, M) bool, disjoint from ``positive``; slots in neither are ignored.

    Returns:
        (B,) losses; a row without negatives keeps the formula's value, 0 only with a single positive.
    """
    pulled = torch.where(positive, logits, 0.0).sum(dim=1) / positive.sum(dim=1)
    return masked_logsumexp(logits, positive | negative) - pulled
