"""Out-of-fold sensitivities, which stand in for a test part that has too few crops of a type."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import Metric, ModelCard

# What a study does not change: the folds train with the margin and temperature of the settings.
_SECTIONS = ("input", "model", "compose", "finetune")
_OF_PRETRAINING = ("epochs", "loss", "margin_on")


def out_of_fold(path: Path, card: ModelCard) -> tuple[dict[str, Metric], str]:
    """Sensitivity of each type in a ``folds.json`` of the candidate's data and settings; none, and why, otherwise.

    It is of models that the same recipe trained on the other folds, not of the candidate itself.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content["subsets"]["all crops"]["per_type"]
        found = {label: Metric(value=rows[label]["value"] or 0.0, crops=rows[label]["crops"]) for label in TYPE_LABELS}
        data, changed = content["manifest_hash"], _changed(content["settings"], card.settings)
    except OSError as error:
        return {}, f"{path.name} cannot be read: {error.strerror}; run: python -m supcam.experiments.folds"
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        return {}, f"{path.name} is not a result of supcam.experiments.folds ({type(error).__name__})"
    if data != card.data.manifest_hash:
        return {}, f"{path.name} is of other data; run: python -m supcam.experiments.folds"
    if changed:
        return {}, f"{path.name} is of other settings ({changed}); run: python -m supcam.experiments.folds"
    return found, ""


def _changed(settings: Mapping[str, Any], recorded: Mapping[str, Any]) -> str:
    """The first setting of training that differs from what the card records; "" where all are equal."""
    pairs = [(section, key, value) for section in _SECTIONS for key, value in recorded.get(section, {}).items()]
    before = recorded.get("pretrain", {})
    pairs += [("pretrain", key, before[key]) for key in _OF_PRETRAINING if key in before]
    return next((f"{section}.{key}" for section, key, value in pairs if settings[section].get(key) != value), "")
