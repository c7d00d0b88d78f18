"""The self-margin contrastive loss over a labelled queue of keys."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from supcam.errors import SettingError
from supcam.losses.margin import margin_map
from supcam.losses.supcon_out import supcon_out_loss
from supcam.losses.unified import unified_loss

MarginOn = Literal["none", "self", "all"]
BaseLoss = Literal["unified", "supcon_out"]
BASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"unified": unified_loss, "supcon_out": supcon_out_loss}


class Similarities(NamedTuple):
    """Cosines of queries with their own key (slot 0) and with the queue, and which of the 1 + K slots are what."""

    own: Tensor  # (B, 1)
    others: Tensor  # (B, K)
    positive: Tensor  # (B, 1 + K) bool
    negative: Tensor  # (B, 1 + K) bool


class LossRows(NamedTuple):
    """Loss of each query (B,), with what the row had to work with."""

    loss: Tensor
    positives: Tensor  # (B,) number of positives, slot 0 included
    negatives: Tensor  # (B,) number of negatives
    uniform: Tensor  # (B,) value the loss would have if all cosines were equal and the margin 0


def similarities(
    query: Tensor, key: Tensor, labels: Tensor, queue: Tensor, queue_labels: Tensor, valid: Tensor
) -> Similarities:
    """Cosines of unit queries (B, D) with their keys (B, D) and a queue (K, D), with the masks of the slots."""
    own, others = (query * key).sum(dim=1, keepdim=True), query @ queue.T
    positive = torch.ones(len(own), 1 + len(queue), dtype=torch.bool, device=own.device)
    positive[:, 1:] = (labels[:, None] == queue_labels).logical_and_(valid)
    negative = ~positive
    negative[:, 1:].logical_and_(valid)
    return Similarities(own, others, positive, negative)


def count_positives(labels: Tensor, queue_labels: Tensor, valid: Tensor) -> Tensor:
    """Number (B,) of positives of each row, slot 0 included.

    Counted among sorted labels: a sum over the mask would first turn its booleans into eight bytes each.
    """
    least = torch.iinfo(queue_labels.dtype).min
    ordered = torch.where(valid, queue_labels, least).sort().values
    return 1 + torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)


def margin_logits(parts: Similarities, margin: float, margin_on: MarginOn, temperature: float) -> Tensor:
    """Logits (B, 1 + K): the margin on slot 0 (``self``), on every positive (``all``) or nowhere, over temperature."""
    own, others = parts.own, parts.others
    if margin_on != "none":
        own = margin_map(own, margin)
    if margin_on == "all":
        others = torch.where(parts.positive[:, 1:], margin_map(others, margin), others)
    return torch.cat([own, others], dim=1).div_(temperature)


def uniform_value(base: BaseLoss, positives: Tensor, negatives: Tensor) -> Tensor:
    """Loss (B,) of rows whose cosines are all equal: log(1 + |N||P|) for unified, log(|N| + |P|) for SupCon-out."""
    if base == "unified":
        return torch.log1p((positives * negatives).double())
    return (positives + negatives).double().log()


class SelfMarginLoss(nn.Module):
    """Contrastive loss with an angular margin on the anchor's own pair (our reading of SupCAM's name).

    Works in float32 (float64 for float64 input) with autocast off, on vectors renormalised after the cast.

    Attributes:
        temperature: Divisor of the cosines, 0.01 to 1; 0.07 to 0.2 is usual.
        margin: Radians, 0 <= margin < pi/2.
        margin_on: ``none``, ``self`` (only the anchor's own pair) or ``all`` (every positive).
        base: ``unified`` or ``supcon_out``.

    Raises:
        SettingError: for a value out of range.

    Shape:
        - query, key: (B, D); labels: (B,); queue: (K, D); queue_labels, valid: (K,).
        - output: scalar, the mean over rows.
    """

    def __init__(
        self, temperature: float, margin: float, margin_on: MarginOn = "self", base: BaseLoss = "unified"
    ) -> None:
        super().__init__()
        if not 0.01 <= temperature <= 1.0:
            raise SettingError("pretrain.temperature", temperature, "0.01 to 1")
        if not 0.0 <= margin < 1.5707:
            raise SettingError("pretrain.margin", margin, "0 to below 1.5707 (pi/2) radians")
        if margin_on not in ("none", "self", "all"):
            raise SettingError("pretrain.margin_on", margin_on, "none, self, all")
        if base not in BASES:
            raise SettingError("pretrain.loss", base, ", ".join(BASES))
        self.temperature, self.margin, self.margin_on, self.base = temperature, margin, margin_on, base

    def rows(
        self,
        query: Tensor,
        key: Tensor,
        labels: Tensor,
        queue: Tensor,
        queue_labels: Tensor,
        valid: Tensor,
        margin: float | None = None,
    ) -> LossRows:
        """Loss of every row with its counts; ``margin`` (radians) replaces the module's own, as the warm-up needs."""
        with torch.autocast(query.device.type, enabled=False):
            wide = torch.float64 if query.dtype == torch.float64 else torch.float32
            query, key = normalize(query.to(wide), dim=1), normalize(key.to(wide), dim=1)
            # A queue of the working type holds keys that were normalised in it; only a cast moves them off the sphere.
            queue = queue if queue.dtype == wide else normalize(queue.to(wide), dim=1)
            parts = similarities(query, key, labels, queue, queue_labels, valid)
            used = self.margin if margin is None else margin
            logits = margin_logits(parts, used, self.margin_on, self.temperature)
            positive, negative = parts.positive, parts.negative
            del parts  # its cosines take as much memory as the logits, and nothing needs them any more
            loss = BASES[self.base](logits, positive, negative)
        positives = count_positives(labels, queue_labels, valid)
        negatives = 1 + valid.sum() - positives
        return LossRows(loss, positives, negatives, uniform_value(self.base, positives, negatives))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        labels: Tensor,
        queue: Tensor,
        queue_labels: Tensor,
        valid: Tensor,
        margin: float | None = None,
    ) -> Tensor:
        """Mean loss over the rows."""
        return self.rows(query, key, labels, queue, queue_labels, valid, margin).loss.mean()
