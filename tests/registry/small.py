"""A small real model that knows the rectangles of ``crops.py``, and its package with a true card."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn, tensor

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import CalibrationCard, DataCard, InputCard, Metric, ModelCard, ReviewCard, load_card
from supcam.registry.package import package_model, write_checksums
from supcam.serving.engine import PREDICTIONS_FILE, PROBABILITY_COLUMNS
from supcam.serving.images import letterbox
from tests.registry.crops import COUNT, DATA, SPLIT, crop_images, crop_rows, manifest

SIZE = 32
INK = 250  # grey levels below are a part of the crop


class SmallModel(nn.Module):
    """Reads the type off how much of the canvas is dark; with the interface of the real one.

    A ``shift`` of 0 is right about every rectangle; 0.5 moves the borders between the types by half their distance.
    Models of different seeds differ in their weights and hardly in their answers.
    """

    def __init__(self, seed: int, shift: float = 0.0) -> None:
        super().__init__()
        dark = [float((crop < INK).mean()) for crop in canvases(COUNT, 1)]
        centres = tensor([sum(dark[kind::4]) / len(dark[kind::4]) for kind in range(4)])
        step = (centres[3] - centres[0]) / 3
        self.centres = nn.Parameter(centres + step * (shift + 1e-3 * seed))
        self.sharpness = nn.Parameter(4 / step)

    def forward(self, crops: Tensor) -> Tensor:
        dark = (crops < INK).float().mean(dim=(1, 2, 3))
        distance = (dark[:, None] - self.centres[None]) * self.sharpness
        probabilities: Tensor = (-(distance**2)).softmax(dim=1)
        return probabilities


def canvases(count: int, seed: int) -> NDArray[np.uint8]:
    """The rectangles as a graph takes them, (count, 1, SIZE, SIZE)."""
    return np.stack([letterbox(image, SIZE) for image in crop_images(count, seed)])[:, np.newaxis]


def make_card(data: str = DATA, code: str = "code-1", sensitivity: float = 1.0) -> ModelCard:
    """A card that says that every type is recognised that well, on ten crops each."""
    whole = Metric(value=sensitivity, low=0.8, high=1.0, crops=COUNT)
    return ModelCard(
        input=InputCard(size=SIZE),
        encoder="small",
        settings={"seed": 42},
        data=DataCard(manifest_hash=data, split_hash=SPLIT, sources=["drawn"]),
        code_hash=code,
        metrics={"macro_sensitivity": whole, "accuracy": whole},
        sensitivity={name: Metric(value=sensitivity, low=0.8, high=1.0, crops=COUNT // 4) for name in TYPE_LABELS},
        calibration=CalibrationCard(error=0.05),
        review=ReviewCard(risk=0.1),
    )


def measured_card(card: ModelCard, package: Path) -> ModelCard:
    """The card with the metrics that the answers of the package give."""
    answers = pd.read_csv(package / PREDICTIONS_FILE)
    right = answers[list(PROBABILITY_COLUMNS)].to_numpy().argmax(axis=1) == answers["type"].map(TYPE_LABELS.index)
    each = {label: float(right[answers["type"] == label].mean()) for label in TYPE_LABELS}
    sensitivity = {label: Metric(value=each[label], crops=COUNT // 4) for label in TYPE_LABELS}
    whole = Metric(value=float(right.mean()), crops=COUNT)
    metrics = {"macro_sensitivity": whole, "accuracy": whole}
    return card.model_copy(update={"metrics": metrics, "sensitivity": sensitivity})


def export(out: Path, seed: int, shift: float = 0.0, crops_seed: int = 0) -> Path:
    """The package of a model, with a card that says it is always right; see :func:`with_card`."""
    return package_model(
        SmallModel(seed, shift),
        make_card(),
        out,
        split=manifest(crops_seed)[["sha256", "split"]],
        test=crop_rows(COUNT, crops_seed),
        canvases=canvases(COUNT, crops_seed),
    )


def with_card(exported: Path, out: Path, card: ModelCard) -> Path:
    """A copy of a package with this card, its metrics those that the package's answers give."""
    shutil.copytree(exported, out)
    card = measured_card(card.model_copy(update={"parity": load_card(out).parity}), out)
    (out / "card.json").write_text(card.to_json(), encoding="utf-8")
    write_checksums(out)
    return out
