"""The network of step 1: an encoder with a two-layer projection head onto the unit sphere."""

from torch import Tensor, nn
from torch.nn.functional import normalize

from supcam.models.encoders import Encoder


class ContrastiveNetwork(nn.Module):
    """Encoder and projection head; the head is dropped after pre-training.

    Attributes:
        encoder: The backbone that fine-tuning goes on with.
        head: Two-layer perceptron, F -> F -> D.

    Shape:
        - input: (B, 1, S, S) float.
        - output: (B, D) of unit length.
    """

    def __init__(self, encoder: Encoder, projection: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.num_features
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection))

    def forward(self, crops: Tensor) -> Tensor:
        """Unit vectors (B, D) of crops (B, 1, S, S)."""
        return self.project(self.encoder(crops))

    def project(self, features: Tensor) -> Tensor:
        """Unit vectors (B, D) of backbone features (B, F)."""
        return normalize(self.head(features).float() if features.dtype.itemsize < 4 else self.head(features), dim=1)
