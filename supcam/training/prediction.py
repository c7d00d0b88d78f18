"""Logits of a trained classifier for whole crop sets."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.models.classifier import ClusterClassifier, InferenceModel
from supcam.models.encoders import build_encoder, channels_last
from supcam.settings import Settings
from supcam.training.device import choose_device, reproducible

_BATCH = 64


def load_classifier(model_state: dict[str, Tensor], settings: Settings) -> ClusterClassifier:
    """The classifier of the settings with trained weights, in evaluation mode.

    Raises:
        UsageError: for weights of another architecture.
    """
    classifier = ClusterClassifier(build_encoder(settings.model))
    try:
        classifier.load_state_dict(model_state)
    except RuntimeError:
        raise UsageError(
            f"the trained weights do not fit the model ({settings.model.description}). Train again with these "
            "settings, or give the settings the weights were trained with."
        ) from None
    return classifier.eval()


def averaged_logits(classifier: ClusterClassifier, canvases: Tensor, views: int) -> Tensor:
    """Logarithms (N, 4) of probabilities averaged over ``views`` symmetries, of uint8 canvases (N, 1, S, S).

    The classifier is put into evaluation mode; batches go to its device.
    """
    model, device = InferenceModel(classifier, views=views).eval(), classifier.head.weight.device
    parts = [model.log_probabilities(batch.to(device)) for batch in torch.split(canvases, _BATCH)]
    return torch.cat(parts)


def predict_logits(model_state: dict[str, Tensor], crops: CropSet, settings: Settings) -> NDArray[np.float32]:
    """Logits (N, 4) of one crop set, see ``predict_each``.

    Raises:
        UsageError: for weights of another architecture.
    """
    with reproducible(settings.runtime, settings.runtime.seed):
        return predict_each(load_classifier(model_state, settings), [crops], settings)[0]


def predict_each(
    classifier: ClusterClassifier, crop_sets: Sequence[CropSet], settings: Settings
) -> list[NDArray[np.float32]]:
    """Logits (N, 4) of each crop set, ordered like ``ClusterType``, by one classifier.

    They are the logarithms of probabilities averaged over ``finetune.test_views`` symmetries of the square, so their
    softmax is that average; the packaged model computes the same. The classifier stays on ``runtime.device``.
    """
    device = choose_device(settings.runtime)
    with reproducible(settings.runtime, settings.runtime.seed), torch.inference_mode():
        classifier = channels_last(classifier.to(device))
        canvases = (torch.from_numpy(crops.canvas(settings.input.size, settings.input.scale)) for crops in crop_sets)
        logits = [averaged_logits(classifier, each, settings.finetune.test_views) for each in canvases]
        return [each.cpu().numpy().astype(np.float32) for each in logits]
