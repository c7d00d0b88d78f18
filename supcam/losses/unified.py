"""The unified contrastive loss (Dai et al., arXiv 2103.10773), from its formula."""

from typing import Any

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


class PairLogSumExp(torch.autograd.Function):
    """LSE over the negatives plus LSE over minus the positives (B,); one exponential a slot serves the gradient too.

    Rows without positives or without negatives give 0 for that part and no gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Sum (B,) of the two; each set has a maximum of its own, so nothing underflows."""
        signed = logits.neg()
        torch.where(positive, signed, logits, out=signed)
        least = torch.finfo(signed.dtype).min
        tops = [torch.where(mask, signed, least).amax(dim=1, keepdim=True) for mask in (positive, negative)]
        shares = signed.sub_(torch.where(positive, tops[0], tops[1])).exp_()
        shares.masked_fill_(~(positive | negative), 0.0)
        sums = [torch.where(mask, shares, 0.0).sum(dim=1, keepdim=True) for mask in (positive, negative)]
        ctx.save_for_backward(shares, positive, *sums)
        parts = [torch.where(total > 0, top + total.log(), 0.0) for top, total in zip(tops, sums, strict=True)]
        return (parts[0] + parts[1])[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Softmax over each set, minus that over the positives."""
        shares, positive, of_positives, of_negatives = ctx.saved_tensors
        least = torch.finfo(shares.dtype).tiny
        slope = gradients[0][:, None]
        scale = torch.where(positive, -slope / of_positives.clamp(min=least), slope / of_negatives.clamp(min=least))
        return scale.mul_(shares), None, None


def unified_loss(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Loss of each row: softplus(LSE over negatives + LSE over minus positives).

    Args:
        logits: (B, M) similarities divided by the temperature, margin applied.
        positive: (B, M) bool; every row has at least one.
        negative: (B, M) bool, disjoint from ``positive``; slots in neither are ignored.

    Returns:
        (B,) losses; exactly 0 for a row without negatives.
    """
    loss = softplus(PairLogSumExp.apply(logits, positive, negative))  # type: ignore[no-untyped-call]
    return torch.where(negative.any(dim=1), loss, 0.0)
