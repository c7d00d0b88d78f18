"""The model as MLflow serves it. This file is copied into the logged model; nothing is pickled."""

from typing import Any, NoReturn

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel


class ServedClassifier(PythonModel):
    """Column ``image`` (encoded bytes) in; type, confidence, four probabilities and ``needs_review`` out."""

    def load_context(self, context: Any) -> None:
        """Open the package that lies beside this file."""
        from pathlib import Path

        from supcam.serving.engine import Engine

        self.engine = Engine(Path(context.artifacts["package"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer every row; one image that cannot be read refuses the request and names the row.

        Raises:
            MlflowException: (HTTP 400) for a row that holds no crop.
        """
        images = list(model_input["image"])
        for row, image in enumerate(images):
            # A text would be opened as a path: a request in CSV could then read the server's own files.
            if not isinstance(image, (bytes, bytearray, memoryview)):
                _refuse(row, f"image is given as {type(image).__name__}; send encoded bytes, in JSON as base64")
        probabilities, errors = self.engine.predict(images)
        for row, error in enumerate(errors):
            if error is not None:
                _refuse(row, error)
        return pd.DataFrame(self.engine.answer(probabilities), index=model_input.index)


def _refuse(row: int, reason: str) -> NoReturn:
    raise MlflowException(f"row {row}: {reason}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(ServedClassifier())
