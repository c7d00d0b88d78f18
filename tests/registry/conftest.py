"""A small real model, its packages, and real sqlite registries in temporary folders."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking._tracking_service import utils
from numpy.typing import NDArray

from supcam.registry.card import ModelCard
from supcam.registry.client import Predictor, load_production
from supcam.registry.reach import open_client
from supcam.registry.registration import register_candidate
from supcam.registry.store import Registry
from tests.registry.crops import PASSED, crop_rows, go
from tests.registry.small import SIZE, SmallModel, export, make_card, with_card
from tests.support.drawing import bar_canvases
from tests.support.servers import postgres_server

__all__ = ["SmallModel", "crop_rows", "make_card", "postgres_server"]

MakePackage = Callable[..., Path]


def drawn_crops(count: int, seed: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Dark bars on white, (count, size, size)."""
    return bar_canvases(count, seed, size)


def kept(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that ``build`` fills; one that is kept for all mutants of a run is taken (``benchmarks.mutation``)."""
    if (place := os.environ.get("SUPCAM_TESTS_KEPT")) and (Path(place) / name).is_dir():
        return Path(place) / name
    place = os.environ.get("SUPCAM_TESTS_KEEP")
    folder = (Path(place) if place else factory.mktemp("kept")) / name
    build(folder)
    return folder


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> MakePackage:
    """Packages by seed and shift of the weights, with true metrics; the same one is exported only once."""
    made: dict[tuple[tuple[int, float, int], str], Path] = {}

    def make(
        seed: int = 1, *, card: ModelCard | None = None, crops_seed: int = 0, again: bool = False, shift: float = 0.0
    ) -> Path:
        model, text = (seed, shift, crops_seed), (card or make_card()).to_json()
        if again:
            exported = export(tmp_path_factory.mktemp("package") / "model", *model)
            made[(model, text)] = with_card(exported, tmp_path_factory.mktemp("package") / "model", card or make_card())
        if (model, text) not in made:
            name = hashlib.sha256(repr((model, text)).encode()).hexdigest()[:16]
            made[(model, text)] = kept(
                tmp_path_factory, name, lambda out: with_card(exported_once(*model), out, card or make_card())
            )
        return made[(model, text)]

    @cache
    def exported_once(seed: int, shift: float, crops_seed: int) -> Path:
        name = f"exported-{seed}-{shift}-{crops_seed}"
        return kept(tmp_path_factory, name, lambda out: export(out, seed, shift, crops_seed))

    return make


@pytest.fixture(scope="session")
def package(make_package: MakePackage) -> Path:
    return make_package()


@pytest.fixture
def predictor(package: Path) -> Predictor:
    return load_production(str(package))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making them takes longer than a test."""

    def build(folder: Path) -> None:
        folder.mkdir()
        open_client(f"sqlite:///{folder / 'mlflow.db'}", create=True).search_experiments()

    return kept(tmp_path_factory, "empty", build) / "mlflow.db"


@pytest.fixture
def registry_uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def two_versions_store(make_package: MakePackage, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two versions of other weights and code, registered once."""

    def build(folder: Path) -> None:
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        for seed in (1, 2):
            register_candidate(
                make_package(seed, card=make_card(code=f"code-{seed}")),
                run_id=new_run(uri, folder),
                tracking_uri=uri,
                validation=PASSED,
            )

    return kept(tmp_path_factory, "two", build) / "mlflow.db"


@pytest.fixture(scope="session")
def promoted_stores(two_versions_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The registry of two versions, with none, the first, and both of them promoted in turn."""
    stores = [two_versions_store]
    for number in (1, 2):

        def build(folder: Path, number: int = number) -> None:
            decision = go(own_copy(stores[-1], folder).uri, candidate=number)
            assert decision.outcome == "promoted", decision.reason

        stores.append(kept(tmp_path_factory, f"promoted-{number}", build) / "mlflow.db")
    return stores


def own_copy(store: Path, folder: Path) -> Registry:
    """A copy of a registry, files too, into a folder."""
    shutil.copytree(store.parent, folder, dirs_exist_ok=True)
    # A process keeps where the artifacts of a run lie; each test has its own copy of the same runs.
    utils._artifact_repos_cache.clear()
    return Registry(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture
def two_versions(two_versions_store: Path, tmp_path: Path) -> Registry:
    """A registry of its own, files too, with versions 1 and 2; nothing is in production."""
    return own_copy(two_versions_store, tmp_path)


@pytest.fixture
def first_promoted(promoted_stores: list[Path], tmp_path: Path) -> Registry:
    """The same, with version 1 in production."""
    return own_copy(promoted_stores[1], tmp_path)


@pytest.fixture
def both_promoted(promoted_stores: list[Path], tmp_path: Path) -> Registry:
    """The same, with version 2 in production and version 1 before it."""
    return own_copy(promoted_stores[2], tmp_path)


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
    where = (folder / "mlartifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment("tests", artifact_location=where)
    run = client.create_run(experiment)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
