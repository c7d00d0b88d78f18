"""The classifier of step 2, and the form in which it is packaged for use."""

import torch
from torch import Tensor, nn

from supcam.cluster_type import ClusterType
from supcam.errors import SettingError
from supcam.models.encoders import Encoder
from supcam.views import to_input

TEST_VIEWS = (1, 2, 4, 8)


class ClusterClassifier(nn.Module):
    """An encoder with a linear layer on top.

    Attributes:
        encoder: The backbone.
        head: Linear layer, F -> 4.

    Shape:
        - input: (B, 1, S, S) float, 0 background to 1 dark.
        - output: (B, 4) logits in the order of ``ClusterType``.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, len(ClusterType))

    def forward(self, crops: Tensor) -> Tensor:
        """Logits (B, 4) of crops (B, 1, S, S)."""
        logits: Tensor = self.head(self.encoder(crops))
        return logits


def turned_views(crops: Tensor, views: int) -> Tensor:
    """The first ``views`` of a square's eight symmetries, (views * B, ...): none, half turn, quarter turns, mirrored.

    ``views`` is 1, 2, 4 or 8.
    """
    turned = [crops]
    if views >= 2:
        turned.append(crops.flip((2, 3)))
    if views >= 4:
        turned += [view.transpose(2, 3).flip(2) for view in turned]
    if views == 8:
        turned += [view.flip(3) for view in turned]
    return torch.cat(turned)


class InferenceModel(nn.Module):
    """A classifier from raw canvases to probabilities: inversion, averaged views and calibration included.

    Attributes:
        classifier: The trained classifier.
        views: How many of the square's symmetries are averaged (1, 2, 4 or 8).
        temperature: Divisor of the logarithm of the averaged probabilities, above 0; 1 leaves them as they are.

    Shape:
        - input: (B, 1, S, S) uint8, 255 background.
        - output: (B, 4) float32 probabilities in the order of ``ClusterType``.
    """

    def __init__(self, classifier: ClusterClassifier, *, views: int = 1, temperature: float = 1.0) -> None:
        super().__init__()
        if views not in TEST_VIEWS:
            raise SettingError("finetune.test_views", views, ", ".join(map(str, TEST_VIEWS)))
        if not temperature > 0.0:
            raise SettingError("temperature", temperature, "a number above 0")
        self.classifier = classifier
        self.views = views
        self.temperature = temperature

    def log_probabilities(self, crops: Tensor) -> Tensor:
        """Logarithm (B, 4) of the probabilities averaged over the views, before calibration."""
        darkness = to_input(crops).to(self.classifier.head.weight.dtype)
        logits = self.classifier(turned_views(darkness, self.views)).float()
        rows = logits.log_softmax(dim=1).reshape(self.views, -1, logits.shape[1])
        mean: Tensor = rows.logsumexp(dim=0)
        return mean.log_softmax(dim=1)

    def forward(self, crops: Tensor) -> Tensor:
        """Probabilities (B, 4) of uint8 canvases (B, 1, S, S)."""
        return (self.log_probabilities(crops) / self.temperature).softmax(dim=1)
