"""A small real network with fixed weights, packaged as the pipeline does, and labelled synthetic crops."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from supcam.data.crops import CropSet
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.models.classifier import ClusterClassifier, InferenceModel
from supcam.models.encoders import build_encoder
from supcam.registry.client import Predictor, load_production
from supcam.registry.package import package_model
from supcam.synthetic.sample import synthesize
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
def package(crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights of the test's own, not of a training: it says single to every crop, on any processor."""
    settings = small_settings()
    classifier = ClusterClassifier(build_encoder(settings.model))
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([4.0, 0.0, 1.0, 2.0]))
    test = crops.subset((crops.frame["split"] == "test").to_numpy())
    return package_model(
        InferenceModel(classifier, views=8).eval(),
        make_card(),
        tmp_path_factory.mktemp("package") / "model",
        split=pd.DataFrame(crops.frame[["sha256", "split"]]),
        test=pd.DataFrame(test.frame[["sha256", "type"]]),
        canvases=test.canvas(32),
    )


@pytest.fixture(scope="session")
def predictor(package: Path) -> Predictor:
    """The packaged model as the client loads it."""
    return load_production(str(package), threads=1)
