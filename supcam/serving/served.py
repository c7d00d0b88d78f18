"""The model as MLflow serves it. MLflow imports this module by the name that MLmodel records; nothing is pickled."""

from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from .engine import Engine, PackageError, content_hash

CONTENT_KEY = "supcam.content"
SHIPPED_KEY = "supcam.shipped"


class ServedClassifier:
    """Column ``image`` (encoded bytes) in; type, confidence, probabilities, ``needs_review`` and ``reason`` out."""

    def __init__(self, package: Path) -> None:
        self.engine = Engine(package)

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Answer every row; one image that cannot be read refuses the request and names the row.

        What does not show a crop has an empty type and NaN for numbers (null in JSON).

        Raises:
            MlflowException: (HTTP 400) for a row that is not a crop.
        """
        images = list(model_input["image"])
        for row, image in enumerate(images):
            # A text would be opened as a path: a request in CSV could then read the server's own files.
            if not isinstance(image, (bytes, bytearray, memoryview)):
                _refuse(row, f"image is given as {type(image).__name__}; send encoded bytes, in JSON as base64")
        predictions = self.engine.predict(images)
        for row, error in enumerate(predictions.errors):
            if error is not None:
                _refuse(row, error)
        return Answers(self.engine.answer(predictions), index=model_input.index)


class Answers(pd.DataFrame):
    """Answers whose records have None for NaN: MLflow's server makes them to JSON, which has no NaN."""

    def to_dict(self, *args: Any, **options: Any) -> Any:
        """As of :class:`pandas.DataFrame`."""
        plain = pd.DataFrame(self)
        return plain.astype(object).where(plain.notna(), None).to_dict(*args, **options)


def _load_pyfunc(data_path: str) -> ServedClassifier:
    """What MLflow calls to load a model: ``data_path`` is the package.

    Raises:
        PackageError: when its files are not those that were registered.
    """
    package = Path(data_path)
    _check_content(package)
    return ServedClassifier(package)


def _check_content(package: Path) -> None:
    """Compare the files with the hash in ``MLmodel``: the package's own list could be changed together with them."""
    recorded = Model.load(str(package.parents[1])).metadata or {}
    if CONTENT_KEY in recorded and recorded[CONTENT_KEY] != content_hash(package, recorded.get(SHIPPED_KEY, "")):
        raise PackageError(
            f"the files in {package} are not those that were registered. Run: dvc repro, or go back: supcam rollback"
        )


def _refuse(row: int, reason: str) -> NoReturn:
    raise MlflowException(f"row {row}: {reason}", error_code=INVALID_PARAMETER_VALUE)
