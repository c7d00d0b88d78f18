"""Stages name the crops they read: MLflow dataset inputs with the hashes that dvc.lock records."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.data.manifest import write_manifest
from supcam.settings import Settings
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage, execute
from supcam.stages.workspace import Workspace
from supcam.tracking import open_client, path_hash


def write_crops(folder: Path, names: list[str], split: list[str]) -> pd.DataFrame:
    """Crops of rising type and a manifest of them; the frame with its parts."""
    (folder / "crops").mkdir(parents=True, exist_ok=True)
    rows = []
    for at, name in enumerate(names):
        image = np.full((40, 30), 255, dtype=np.uint8)
        image[8:32, 10:20] = 60 + at
        Image.fromarray(image).save(folder / "crops" / f"{name}.png")
        row = {"crop_id": name, "path": f"crops/{name}.png", "type": TYPE_LABELS[at % 4], "case_id": "", "source": "s"}
        rows.append(row | {"sha256": f"{at:064x}", "width": 30, "height": 40, "label_certain": True})
    return pd.DataFrame(rows).assign(split=split)


def test_a_stage_names_the_crops_it_reads_with_their_hashes(project: Path) -> None:
    raw = write_crops(project / "data", list("abcde"), ["train", "train", "train", "validation", "test"])
    outputs = project / "outputs"
    composed = write_crops(outputs / "compose", ["x", "y"], ["train", "train"])
    (outputs / "split").mkdir()
    write_manifest(raw, project / "data" / "manifest.csv")
    write_manifest(raw, outputs / "split" / "manifest.csv")
    write_manifest(composed, outputs / "compose" / "manifest.csv")
    (project / "dvc.yaml").write_text(
        "stages:\n  tune:\n    cmd: 'true'\n    deps: [data, outputs/split/manifest.csv, outputs/compose]\n"
    )

    def work(stage: Stage) -> str:
        stage.log_crops("crops", raw, "raw", dep="data", source=stage.data)
        crops = StageCrops(stage)
        return f"{len(crops.training())} and {len(crops.part('validation'))} crops"

    execute("tune", work, Workspace(project, Settings(), outputs))
    client = open_client(project)
    (run,) = client.search_runs([client.get_experiment_by_name("supcam").experiment_id])
    found = {item.dataset.name: (item.dataset.digest, item.tags[0].value) for item in run.inputs.dataset_inputs}
    split_hash = path_hash(outputs / "split" / "manifest.csv")
    assert found == {
        "crops": (path_hash(project / "data", project), "raw"),
        "crops, train": (split_hash, "training"),
        "crops, validation": (split_hash, "validation"),
        "crops, composed": (path_hash(outputs / "compose", project), "training"),
    }
    profiles = {item.dataset.name: json.loads(item.dataset.profile) for item in run.inputs.dataset_inputs}
    assert profiles["crops, train"] == {"crops": 3, "instance": 1, "touching": 1, "overlapping": 1}
    sources = {item.dataset.name: json.loads(item.dataset.source)["uri"] for item in run.inputs.dataset_inputs}
    assert sources["crops, composed"] == str(outputs / "compose") and sources["crops"] == str(project / "data")
