"""Out-of-fold predictions: every crop judged by a model that trained on none of its case."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.data.folds import fold_manifest
from supcam.data.groups import Links
from supcam.identity import key_of
from supcam.progress import Progress
from supcam.settings import Settings
from supcam.training.crop_bank import crops_digest
from supcam.training.finetuning import finetune
from supcam.training.prediction import predict_logits
from supcam.training.task import run_identity


def out_of_fold(
    crops: CropSet,
    settings: Settings,
    folds: int,
    *,
    state_dir: Path,
    linked: Links = (),
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Probabilities (N, 4) of each crop from the classifier of its fold, in the order of ``crops``.

    Crops are divided like the split, by whole cases and with duplicates together. Each classifier starts from random
    weights and trains as ``finetune`` says on the crops of the other folds for ``finetune.epochs`` (which are real
    already: ``finetune.real_epochs`` adds nothing); the held-out crops choose nothing. Finished folds in ``state_dir``
    are not trained again.

    Raises:
        UsageError: for fewer than two folds, fewer groups than folds, or folds that leave a type with a single crop.
    """
    divided = fold_manifest(crops.frame, settings.split, folds, linked=linked).set_index("crop_id")["fold"]
    fold = crops.frame["crop_id"].map(divided).to_numpy()
    probabilities = np.zeros((len(crops), len(TYPE_LABELS)))
    nothing = crops.subset([])
    settings = settings.model_copy(
        update={
            "compose": settings.compose.model_copy(update={"on_the_fly": False}),
            "finetune": settings.finetune.model_copy(update={"real_epochs": 0}),
        }
    )
    identity = key_of(run_identity(settings, "finetune", ""))[:8]
    for number in range(folds):
        train, held_out = crops.subset(fold != number), crops.subset(fold == number)
        state = state_dir / f"{number}-{crops_digest(train)[:16]}-{identity}"
        trained = finetune(train, nothing, settings, None, state_dir=state)
        probabilities[fold == number] = np.exp(predict_logits(trained.model_state, held_out, settings))
        if progress:
            progress(number + 1, folds)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities
