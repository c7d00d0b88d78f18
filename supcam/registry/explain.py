"""Why a crop got its type: the places on which the answer depends, and the most similar training crops."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.crops import CropSet
from supcam.files import replaced_file
from supcam.registry.card import load_card
from supcam.registry.package import WEIGHTS_FILE, read_split
from supcam.serving.engine import CropInput, Engine
from supcam.serving.images import WHITE
from supcam.settings import parse_settings

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
        reason: Why the crop needs review, empty if it does not.
    """

    canvas: NDArray[np.uint8]
    type: ClusterType
    probabilities: NDArray[np.float32]
    importance: NDArray[np.float32]
    neighbours: list[Neighbour]
    reason: str = ""


def explain(source: CropInput, package: Path, training: CropSet | None = None, *, nearest: int = 6) -> Explanation:
    """Explain the answer of a package for one crop, by the ``nearest`` among the training crops too.

    Without ``training`` these are left out, which needs no torch.

    Raises:
        ImageError: for a crop that cannot be read.
        PackageError: for a folder that is not a package.
    """
    engine = Engine(package)
    canvas, predictions = engine.canvas(source), engine.predict([source], strict=True)
    probabilities = predictions.probabilities[0]
    label = ClusterType(int(probabilities.argmax()))
    importance = occlusion_map(engine, canvas[0], label)
    similar = _nearest(package, canvas, training, nearest) if training else []
    reason = engine.answer(predictions)["reason"][0]
    return Explanation(canvas[0], label, probabilities, importance, similar, reason)


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
    places = [np.s_[top : top + window, left : left + window] for top in starts for left in starts]
    whole = engine.probabilities(canvas[np.newaxis, np.newaxis])[0, label]
    total, times = np.zeros((2, *canvas.shape), dtype=np.float32)
    for place in places:
        times[place] += 1
    dark = [place for place in places if (canvas[place] < WHITE).any()]
    for first in range(0, len(dark), _BATCH):
        batch = dark[first : first + _BATCH]
        painted = np.repeat(canvas[np.newaxis], len(batch), axis=0)
        for square, place in zip(painted, batch, strict=True):
            square[place] = WHITE
        falls = whole - engine.probabilities(painted[:, np.newaxis])[:, label]
        for place, fall in zip(batch, falls, strict=True):
            total[place] += fall
    return np.asarray(total / np.maximum(times, 1))


def training_crops(package: Path, manifest: pd.DataFrame, root: Path) -> CropSet:
    """The crops of a manifest that trained this very model, by their hashes, as far as ``root`` holds their files."""
    split = read_split(package)
    trained = manifest["sha256"].isin(split.loc[split["split"] == "train", "sha256"])
    there = manifest["path"].map(lambda path: (root / path).is_file())
    return CropSet.load(manifest[trained & there], root)


def _nearest(package: Path, canvas: NDArray[np.uint8], training: CropSet, count: int) -> list[Neighbour]:
    """The crops whose embeddings, before the last layer, have the largest cosine with that of a canvas (1, S, S)."""
    import torch
    from safetensors.torch import load_file

    from supcam.models.classifier import ClusterClassifier, InferenceModel
    from supcam.models.encoders import build_encoder
    from supcam.views import to_input

    card = load_card(package)
    module = InferenceModel(ClusterClassifier(build_encoder(parse_settings({"model": card.settings["model"]}).model)))
    module.load_state_dict(load_file(package / WEIGHTS_FILE))
    encoder = module.eval().classifier.encoder
    canvases = np.concatenate([canvas[np.newaxis], training.canvas(card.input.size, card.input.scale)])
    with torch.inference_mode():
        features = [encoder(to_input(batch)) for batch in torch.split(torch.from_numpy(canvases), _BATCH)]
        embedded = torch.nn.functional.normalize(torch.cat(features)).numpy()
    similar = embedded[1:] @ embedded[0]
    similar[(canvases[1:] == canvases[0]).all(axis=(1, 2, 3))] = -np.inf  # the very crop that is explained
    order = [at for at in np.argsort(-similar, kind="stable")[:count] if np.isfinite(similar[at])]
    rows = training.frame.iloc[order]
    return [
        Neighbour(str(crop_id), str(label), training.images[at], float(similar[at]))
        for at, crop_id, label in zip(order, rows["crop_id"], rows["type"], strict=True)
    ]


def draw(explanation: Explanation, path: Path) -> None:
    """Draw the crop, its map, the probabilities and the nearest training crops into a PNG."""
    from matplotlib.figure import Figure

    neighbours = explanation.neighbours[:6]
    figure = Figure(figsize=(11, 6.2 if neighbours else 3.8), dpi=120, layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.7, 1]) if neighbours else [figure]
    review = f"; needs review: {explanation.reason}" if explanation.reason else ""
    answer = f"{explanation.type.label}, probability {explanation.probabilities.max():.2f}{review}"
    parts[0].suptitle(answer, fontsize=12, fontweight="bold")
    _draw_answer(explanation, parts[0])
    if neighbours:
        parts[1].suptitle("The most similar training crops", fontsize=10)
        row = parts[1].subplots(1, len(neighbours), squeeze=False)[0]
        for axes, neighbour in zip(row, neighbours, strict=True):
            axes.imshow(neighbour.image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{neighbour.type}\nsimilarity {neighbour.similarity:.2f}", fontsize=8)
            axes.set_axis_off()
    with replaced_file(path) as fresh:
        figure.savefig(fresh, format="png", metadata={"Software": None})


def _draw_answer(explanation: Explanation, part: Any) -> None:
    """The crop, the places that decide with their scale, and the probabilities, side by side."""
    picture, heat, bars = part.subplots(1, 3)
    for axes in (picture, heat):
        axes.imshow(explanation.canvas, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
    picture.set_title("the crop as the model sees it", fontsize=10)
    limit = max(float(np.abs(explanation.importance).max()), 1e-6)
    drawn = heat.imshow(explanation.importance, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.6)
    heat.set_title(f"places for (red) and against (blue)\n{explanation.type.label}", fontsize=10)
    scale = part.colorbar(drawn, ax=heat, shrink=0.85)
    scale.set_label("fall of its probability when hidden", fontsize=8)
    scale.ax.tick_params(labelsize=8)
    bars.barh(TYPE_LABELS[::-1], explanation.probabilities[::-1])
    bars.set_xlim(0, 1)
    bars.set_title("probability of each type", fontsize=10)
    bars.tick_params(labelsize=8)
