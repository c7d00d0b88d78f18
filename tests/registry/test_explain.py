"""Explanations of the real classifier: the map lies on the picture, the most similar crops are others."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from supcam.cluster_type import ClusterType
from supcam.data.crops import CropSet
from supcam.registry.explain import draw, explain, occlusion_map, training_crops
from supcam.serving.engine import Engine
from tests.registry.conftest import drawn_crops
from tests.registry.test_candidate import crop_set, packaged  # noqa: F401

Packaged = tuple[Path, dict[str, torch.Tensor], CropSet]


def test_map_is_zero_where_painting_white_changes_nothing(package: Path) -> None:
    canvas = np.full((32, 32), 255, dtype=np.uint8)
    canvas[8:16, 8:16] = 90
    # Not the most probable type: its probability may be 1 whatever is painted.
    found = occlusion_map(Engine(package), canvas, ClusterType.TOUCHING)
    assert found.shape == (32, 32)
    assert (found[24:, 24:] == 0).all()
    assert np.abs(found[8:16, 8:16]).max() > 0


def test_map_equals_a_slow_loop(package: Path) -> None:
    engine = Engine(package)
    canvas = drawn_crops(1, 7)[0]
    found = occlusion_map(engine, canvas, ClusterType.TOUCHING, window=8)
    total, times = np.zeros((32, 32)), np.zeros((32, 32))
    whole = engine.probabilities(canvas[None, None])[0, 1]
    for top in range(0, 25, 4):
        for left in range(0, 25, 4):
            painted = canvas.copy()
            painted[top : top + 8, left : left + 8] = 255
            total[top : top + 8, left : left + 8] += whole - engine.probabilities(painted[None, None])[0, 1]
            times[top : top + 8, left : left + 8] += 1
    assert np.abs(found - total / times).max() < 1e-5


def test_crops_that_trained_another_model_were_taken_for_the_models_own(package: Path, tmp_path: Path) -> None:
    """The present split was read: a model in production since before it had learned from other crops."""
    split = pd.read_csv(package / "split.csv", dtype=str)
    trained = list(split.loc[split["split"] == "train", "sha256"][:3])
    judged = split.loc[split["split"] == "test", "sha256"].iloc[0]
    hashes = [*trained, judged, "of another data set"]
    manifest = pd.DataFrame({"crop_id": list("abcde"), "sha256": hashes, "path": [f"{name}.png" for name in "abcde"]})
    for name in "abde":  # c is not available
        Image.fromarray(drawn_crops(1, 1)[0]).save(tmp_path / f"{name}.png")
    assert list(training_crops(package, manifest, tmp_path).frame["crop_id"]) == ["a", "b"]


def test_a_training_crop_is_not_among_its_own_neighbours(packaged: Packaged, tmp_path: Path) -> None:  # noqa: F811
    """It was its own nearest, which says nothing about it."""
    training = crop_set("train", 5)
    explained = explain(training.images[7], packaged[0], training, nearest=4)
    assert "train7" not in [neighbour.crop_id for neighbour in explained.neighbours]
    values = [neighbour.similarity for neighbour in explained.neighbours]
    assert values == sorted(values, reverse=True) and len(values) == 4
    draw(explained, tmp_path / "out" / "why.png")
    with Image.open(tmp_path / "out" / "why.png") as picture:
        assert picture.size[0] > 400
    first = (tmp_path / "out" / "why.png").read_bytes()
    draw(explained, tmp_path / "out" / "why.png")
    assert (tmp_path / "out" / "why.png").read_bytes() == first
