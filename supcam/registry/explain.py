"""Why a crop got its type: the places on which the answer depends, and the most similar training crops."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.crops import CropSet
from supcam.files import replaced_file
from supcam.registry.card import ModelCard
from supcam.registry.package import WEIGHTS_FILE, read_split
from supcam.serving.engine import CropInput, Engine
from supcam.settings import ModelSettings, parse_settings

_WHITE = 255
_BATCH = 64


@dataclass(frozen=True)
class Neighbour:
    """A similar training crop: its id, type, picture (H, W) and cosine similarity of the embeddings."""

    crop_id: str
    type: str
    image: NDArray[np.uint8]
    similarity: float


@dataclass(frozen=True)
class Explanation:
    """What there is to say about one prediction.

    Attributes:
        canvas: The crop as the model sees it, (S, S).
        type: The predicted type.
        probabilities: (4,), sum 1.
        importance: (S, S) how much the probability of the type falls when the place is painted white, -1 to 1.
        neighbours: The most similar training crops, nearest first.
    """

    canvas: NDArray[np.uint8]
    type: ClusterType
    probabilities: NDArray[np.float32]
    importance: NDArray[np.float32]
    neighbours: list[Neighbour]


def explain(source: CropInput, package: Path, training: CropSet | None = None, *, nearest: int = 6) -> Explanation:
    """Explain the answer of a package for one crop.

    Args:
        source: Path, encoded bytes or array.
        package: Folder of the package.
        training: Crops among which the nearest are looked for; None leaves them out (and needs no torch).
        nearest: How many of them.

    Raises:
        ImageError: for a crop that cannot be read.
        PackageError: for a folder that is not a package.
    """
    engine = Engine(package)
    canvas = engine.canvas(source)
    probabilities = engine.probabilities(canvas[np.newaxis])[0]
    label = ClusterType(int(probabilities.argmax()))
    importance = occlusion_map(engine, canvas[0], label)
    similar = nearest_crops(package, canvas, training, nearest) if training is not None else []
    return Explanation(canvas[0], label, probabilities, importance, similar)


def occlusion_map(
    engine: Engine, canvas: NDArray[np.uint8], label: ClusterType, window: int | None = None
) -> NDArray[np.float32]:
    """Fall of a type's probability when a window around each place is painted white, (S, S), -1 to 1.

    Windows of S / 8 pixels move by half their width; where several cover a pixel it gets their mean. (Zeiler and
    Fergus, ECCV 2014.)
    """
    size = canvas.shape[0]
    window = window or max(4, size // 8)
    starts = range(0, size - window + 1, max(1, window // 2))
    places = [(top, left) for top in starts for left in starts]
    dark = [(top, left) for top, left in places if (canvas[top : top + window, left : left + window] < _WHITE).any()]
    whole = engine.probabilities(canvas[np.newaxis, np.newaxis])[0, label]
    total = np.zeros(canvas.shape, dtype=np.float32)
    times = np.zeros(canvas.shape, dtype=np.float32)
    for top, left in places:
        times[top : top + window, left : left + window] += 1
    for first in range(0, len(dark), _BATCH):
        batch = dark[first : first + _BATCH]
        painted = np.repeat(canvas[np.newaxis, np.newaxis], len(batch), axis=0)
        for row, (top, left) in enumerate(batch):
            painted[row, 0, top : top + window, left : left + window] = _WHITE
        falls = whole - engine.probabilities(painted)[:, label]
        for (top, left), fall in zip(batch, falls, strict=True):
            total[top : top + window, left : left + window] += fall
    averaged: NDArray[np.float32] = (total / np.maximum(times, 1)).astype(np.float32)
    return averaged


def training_crops(package: Path, manifest: pd.DataFrame, root: Path) -> CropSet:
    """The crops of a manifest that trained this very model, by their hashes, as far as their files are available.

    Args:
        package: Folder of the package.
        manifest: Crops with their ``sha256``.
        root: Folder its paths start from.
    """
    split = read_split(package)
    trained = manifest["sha256"].isin(split.loc[split["split"] == "train", "sha256"])
    there = manifest["path"].map(lambda path: (root / path).is_file())
    return CropSet.load(manifest[trained & there], root)


def nearest_crops(package: Path, canvas: NDArray[np.uint8], training: CropSet, count: int) -> list[Neighbour]:
    """The crops whose embeddings have the largest cosine similarity with that of a canvas (1, S, S)."""
    engine = Engine(package)
    card = ModelCard.model_validate(engine.card)
    squares = training.canvas(card.input.size, card.input.scale)
    embedded = _embeddings(package, card, np.concatenate([canvas[np.newaxis], squares]))
    similar = embedded[1:] @ embedded[0]
    order = np.argsort(-similar, kind="stable")[:count]
    rows = training.frame.iloc[order]
    return [
        Neighbour(str(crop_id), str(label), training.images[at], float(similar[at]))
        for at, crop_id, label in zip(order, rows["crop_id"], rows["type"], strict=True)
    ]


def draw(explanation: Explanation, path: Path) -> None:
    """Draw the crop, its map, the probabilities and the nearest training crops into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(3, len(explanation.neighbours))
    figure = Figure(figsize=(1.9 * columns, 5.2 if explanation.neighbours else 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 if explanation.neighbours else 1, columns)
    picture, heat = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    bars = figure.add_subplot(grid[0, 2:])
    picture.imshow(explanation.canvas, cmap="gray", vmin=0, vmax=255)
    picture.set_title("as the model sees it", fontsize=9)
    limit = max(float(np.abs(explanation.importance).max()), 1e-6)
    heat.imshow(explanation.canvas, cmap="gray", vmin=0, vmax=255)
    heat.imshow(explanation.importance, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.6)
    heat.set_title(f"speaks for {explanation.type.label} (red)", fontsize=9)
    bars.barh(TYPE_LABELS[::-1], explanation.probabilities[::-1])
    bars.set_xlim(0, 1)
    bars.set_title("probability", fontsize=9)
    for column, neighbour in enumerate(explanation.neighbours):
        axes = figure.add_subplot(grid[1, column])
        axes.imshow(neighbour.image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{neighbour.type}\n{neighbour.similarity:.3f}", fontsize=8)
        axes.set_axis_off()
    for axes in (picture, heat):
        axes.set_axis_off()
    with replaced_file(path) as fresh:
        figure.savefig(fresh, format="png", dpi=120, metadata={"Software": None})


def _embeddings(package: Path, card: ModelCard, canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit features (N, F) of canvases (N, 1, S, S), before the last layer."""
    import torch
    from safetensors.torch import load_file

    from supcam.models.classifier import ClusterClassifier, InferenceModel
    from supcam.models.encoders import build_encoder
    from supcam.views import to_input

    model: ModelSettings = parse_settings({"model": card.settings["model"]}).model
    module = InferenceModel(ClusterClassifier(build_encoder(model)))
    module.load_state_dict(load_file(package / WEIGHTS_FILE))
    encoder = module.eval().classifier.encoder
    with torch.inference_mode():
        parts = [encoder(to_input(batch)) for batch in torch.split(torch.from_numpy(canvases), _BATCH)]
        unit: NDArray[np.float32] = torch.nn.functional.normalize(torch.cat(parts)).numpy()
    return unit
