"""A small real model, its packages, and real sqlite registries in temporary folders."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from torch import Tensor, manual_seed, nn

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import (
    CalibrationCard,
    DataCard,
    InputCard,
    Metric,
    ModelCard,
    ReviewCard,
    load_card,
)
from supcam.registry.package import package_model, write_checksums
from supcam.registry.reach import open_client
from supcam.registry.registration import register_candidate
from supcam.registry.rules import Validation
from supcam.registry.store import Registry
from tests.support.drawing import bar_canvases
from tests.support.servers import postgres_server

__all__ = ["postgres_server"]

SIZE = 32
MakePackage = Callable[..., Path]


class SmallModel(nn.Module):
    """A convolution, a mean and a linear layer: quick to export, with the interface of the real one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(128, 4)

    def forward(self, crops: Tensor) -> Tensor:
        probabilities: Tensor = self.head(self.features(1 - crops.float() / 255) * 20).softmax(dim=1)
        return probabilities


def drawn_crops(count: int, seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Dark bars on white, (count, size, size)."""
    return bar_canvases(count, seed, size)


def make_card(data: str = "data-1", code: str = "code-1", sensitivity: float = 0.9) -> ModelCard:
    metrics = {name: Metric(value=sensitivity, low=0.8, high=0.95, crops=40) for name in TYPE_LABELS}
    return ModelCard(
        input=InputCard(size=SIZE),
        encoder="small",
        settings={"seed": 42},
        data=DataCard(manifest_hash=data, split_hash="split-1", sources=["drawn"]),
        code_hash=code,
        metrics={"macro_sensitivity": Metric(value=sensitivity), "accuracy": Metric(value=sensitivity)},
        sensitivity=metrics,
        calibration=CalibrationCard(error=0.05),
        review=ReviewCard(risk=0.1),
    )


def crop_rows(count: int, seed: int) -> pd.DataFrame:
    """Hash and type of ``count`` drawn crops, ten of each type in forty."""
    names = [f"{seed:04d}{index:060d}" for index in range(count)]
    return pd.DataFrame({"sha256": names, "type": [TYPE_LABELS[index % 4] for index in range(count)]})


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> MakePackage:
    """Packages by seed of the weights; the same one is exported only once."""
    made: dict[tuple[int, str, int], Path] = {}

    def make(seed: int = 1, *, card: ModelCard | None = None, crops_seed: int = 0, again: bool = False) -> Path:
        key = (seed, (card or make_card()).to_json(), crops_seed)
        exported = next((made[other] for other in made if (other[0], other[2]) == (seed, crops_seed)), None)
        if again or exported is None:
            made[key] = export(seed, card, crops_seed)
        elif key not in made:
            made[key] = with_card(exported, card or make_card())
        return made[key]

    def with_card(exported: Path, card: ModelCard) -> Path:
        copy = shutil.copytree(exported, tmp_path_factory.mktemp("package") / "model")
        parity = load_card(copy).parity
        (copy / "card.json").write_text(card.model_copy(update={"parity": parity}).to_json(), encoding="utf-8")
        write_checksums(copy)
        return copy

    def export(seed: int, card: ModelCard | None, crops_seed: int) -> Path:
        test = crop_rows(40, crops_seed)
        split = pd.DataFrame({"sha256": [*test["sha256"], *crop_rows(40, 900 + crops_seed)["sha256"]]})
        split["split"] = ["test"] * 40 + ["train"] * 40
        return package_model(
            SmallModel(seed),
            card or make_card(),
            tmp_path_factory.mktemp("package") / "model",
            split=split,
            test=test,
            canvases=drawn_crops(40, crops_seed)[:, np.newaxis],
        )

    return make


@pytest.fixture(scope="session")
def package(make_package: MakePackage) -> Path:
    return make_package()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making them takes longer than a test."""
    folder = tmp_path_factory.mktemp("store")
    open_client(f"sqlite:///{folder / 'mlflow.db'}", create=True).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def registry_uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def two_versions_store(make_package: MakePackage, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two versions of other weights and code, registered once."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    for seed in (1, 2):
        register_candidate(
            make_package(seed, card=make_card(code=f"code-{seed}")),
            run_id=new_run(uri, folder),
            tracking_uri=uri,
            validation=Validation(True, "data-1"),
        )
    return folder / "mlflow.db"


@pytest.fixture
def two_versions(two_versions_store: Path, tmp_path: Path) -> Registry:
    """A registry of its own with versions 1 and 2; nothing is in production."""
    shutil.copy(two_versions_store, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture(scope="session")
def light_python(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with supcam alone, without the extra that trains."""
    folder = tmp_path_factory.mktemp("light")
    sources = folder / "sources"
    shutil.copytree(project_root / "supcam", sources / "supcam")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project_root / name, sources / name)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "environment")], check=True)
    python = folder / "environment" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(sources)], check=True)
    return python


@pytest.fixture
def run_id(registry_uri: str, tmp_path: Path) -> str:
    return new_run(registry_uri, tmp_path)


def new_run(uri: str, folder: Path) -> str:
    client = open_client(uri, create=True)
    found = client.get_experiment_by_name("tests")
    where = (folder / "artifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment("tests", artifact_location=where)
    run = client.create_run(experiment)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
