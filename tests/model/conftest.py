"""A small real model, trained for seconds and packaged as the pipeline does, and labelled synthetic crops."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supcam.data.crops import CropSet
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.models.classifier import InferenceModel
from supcam.registry.client import Predictor, load_production
from supcam.registry.package import package_model
from supcam.synthetic import synthesize
from supcam.training.finetuning import finetune
from supcam.training.prediction import load_classifier
from tests.registry.conftest import make_card
from tests.training.small import small_settings


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic crops of all four types in a folder with a labels.csv, as a user would give them."""
    folder = tmp_path_factory.mktemp("lab") / "lab"
    synthesize(folder, cases=4, crops=96, seed=3)
    return folder


@pytest.fixture(scope="session")
def data(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same crops as a data folder, two of the cases for training and two for tests."""
    target = tmp_path_factory.mktemp("imported") / "data"
    import_sources([labelled], target)
    return target


@pytest.fixture(scope="session")
def crops(data: Path) -> CropSet:
    """All crops with a column split."""
    frame = read_manifest(data / "manifest.csv")
    cases = sorted(frame["case_id"].unique())
    split = np.where(frame["case_id"].isin(cases[:2]), "train", "test")
    return CropSet.load(frame.assign(split=split), data)


@pytest.fixture(scope="session")
def trained_package(crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that averages over the symmetries of the square, trained for a few epochs."""
    settings = small_settings(finetune={"epochs": 6, "batch_size": 16, "test_views": 8})
    train, test = (crops.subset((crops.frame["split"] == name).to_numpy()) for name in ("train", "test"))
    state = tmp_path_factory.mktemp("state")
    weights = finetune(train, crops.subset([]), settings, None, state_dir=state).model_state
    return package_model(
        InferenceModel(load_classifier(weights, settings), views=8).eval(),
        make_card(),
        tmp_path_factory.mktemp("package") / "model",
        split=pd.DataFrame(crops.frame[["sha256", "split"]]),
        test=pd.DataFrame(test.frame[["sha256", "type"]]),
        canvases=test.canvas(32),
    )


@pytest.fixture(scope="session")
def predictor(trained_package: Path) -> Predictor:
    """The packaged model as the client loads it."""
    return load_production(str(trained_package), threads=1)
