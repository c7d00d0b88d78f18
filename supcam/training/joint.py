"""The contrastive loss beside cross-entropy: the self-margin loss against a queue and one prototype of each type."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from supcam.cluster_type import TYPE_LABELS
from supcam.losses.self_margin import SelfMarginLoss
from supcam.models.contrastive import ProjectionHead
from supcam.models.queue import KeyQueue
from supcam.settings import PretrainSettings


class JointContrast(nn.Module):
    """Projection head, learned class prototypes and a queue of keys, for training jointly with cross-entropy.

    As in BCL (Zhu et al., CVPR 2022) the prototypes stand among the keys, so that every crop has a positive of its
    type in every batch, however rare the type. The own key of a crop is the same view, seen by the averaged encoder
    and the trained head: what differs is the network and not the picture, which a second view would cost. Unlike in
    pre-training keys are therefore normalised by the statistics of their batch.

    Attributes:
        head: Maps features of the classifier's encoder onto the unit sphere.
        prototypes: (4, D), one for each type; their direction counts.
        queue: Keys of earlier batches.

    Shape:
        - features, key_features: (B, F); labels: (B,).
        - output: scalar, the mean over rows; and the keys (B, D), for the queue.
    """

    codes: Tensor

    def __init__(self, width: int, chosen: PretrainSettings, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.head = ProjectionHead(width, chosen.projection, batch_norm=batch_norm)
        self.prototypes = nn.Parameter(torch.randn(len(TYPE_LABELS), chosen.projection))
        self.queue = KeyQueue(chosen.queue_size, chosen.projection)
        self.loss = SelfMarginLoss(chosen.temperature, chosen.margin, chosen.margin_on, chosen.loss)
        self.register_buffer("codes", torch.arange(len(TYPE_LABELS)), persistent=False)

    def forward(self, features: Tensor, key_features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and its keys."""
        query = self.head(features)
        with torch.no_grad():
            key = self.head(key_features)
        queue = self.queue
        # Copied, so that the queue may take up the keys of the batch before backward has read it.
        keys = torch.cat([queue.keys, normalize(self.prototypes, dim=1)])
        known = torch.cat([queue.labels, self.codes])
        valid = torch.cat([queue.valid, torch.ones_like(self.codes, dtype=torch.bool)])
        loss: Tensor = self.loss(query, key, labels, keys, known, valid)
        return loss, key
