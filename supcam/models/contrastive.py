"""The network of step 1: an encoder with a two-layer projection head onto the unit sphere."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from supcam.models.encoders import Encoder


class ProjectionHead(nn.Sequential):
    """Two-layer perceptron, F -> F -> D, onto the unit sphere.

    Features of an untrained encoder all point the same way, and a contrastive loss leaves that point slowly. With
    batch normalisation the head therefore centres its hidden and its output values; without it only layer
    normalisation is possible, as centring needs other crops.

    Shape:
        - input: (B, F) features of the backbone.
        - output: (B, D) of unit length, in float32 or wider.
    """

    def __init__(self, width: int, projection: int, *, batch_norm: bool = True) -> None:
        hidden: nn.Module = nn.BatchNorm1d(width) if batch_norm else nn.LayerNorm(width)
        layers: list[nn.Module] = [nn.Linear(width, width), hidden, nn.ReLU(), nn.Linear(width, projection)]
        if batch_norm:
            layers.append(nn.BatchNorm1d(projection, affine=False))
        super().__init__(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (B, D) of features (B, F)."""
        projected: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)


class ContrastiveNetwork(nn.Module):
    """Encoder and projection head; the head is dropped after pre-training.

    Attributes:
        encoder: The backbone that fine-tuning goes on with.
        head: Maps its features onto the unit sphere.

    Shape:
        - input: (B, 1, S, S) float.
        - output: (B, D) of unit length.
    """

    def __init__(self, encoder: Encoder, projection: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = ProjectionHead(encoder.num_features, projection, batch_norm=batch_norm)

    def forward(self, crops: Tensor) -> Tensor:
        """Unit vectors (B, D) of crops (B, 1, S, S)."""
        projected: Tensor = self.head(self.encoder(crops))
        return projected
