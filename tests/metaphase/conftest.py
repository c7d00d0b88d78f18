"""A small real model, and whole metaphases that are kept beside a checkout."""

from pathlib import Path

import pytest

from supcam.registry.client import Predictor, load_production
from tests.registry.conftest import make_package, package

__all__ = ["make_package", "package"]


@pytest.fixture(scope="session")
def predictor(package: Path) -> Predictor:
    return load_production(str(package), threads=1)


@pytest.fixture(scope="session")
def shared_metaphases(project_root: Path) -> Path:
    folder = project_root.parent / "shared" / "metaphases"
    if not folder.is_dir():
        pytest.skip(f"real metaphases are not beside this checkout: {folder} does not exist")
    return folder
