"""The MLflow store of a project: a client on it, and the experiment that holds its runs."""

import contextlib
import logging
import os
import random
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from supcam.errors import SupcamError, UsageError
from supcam.tracking.moved import settle
from supcam.tracking.project import EXPERIMENT, artifact_location, quiet, state_folder, tracking_uri
from supcam.tracking.trouble import shown, store_trouble

_ATTEMPTS = 5
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else the page offers views of language models
    "mlflow.note.content": "Runs of the stages of the pipeline, and of `mlflow run`. What each name means: "
    "docs/glossary.md. The model: registered model `supcam`.",
}


def open_client(root: Path, *, ask: bool = True) -> Any:
    """An ``MlflowClient`` on the store of the project; its tables are made when they are missing.

    Args:
        root: The project root.
        ask: Whether a server has to answer already; without, it may be away.

    Raises:
        SupcamError: when the store cannot be reached.
    """
    quiet()
    # A server that is away is handled by waiting and sending later, not by minutes of silence inside one call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs every error with its traceback
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    settle(uri)
    for attempt in range(_ATTEMPTS):
        try:
            with _one_at_a_time(root, uri):
                client = MlflowClient(uri, registry_uri=uri)
                if ask:
                    client.search_experiments(max_results=1)
            return client
        except Exception as error:  # drivers and servers fail in ways of their own
            if said := store_trouble(error, uri):
                raise SupcamError(said) from error
            if uri.startswith("http") or attempt == _ATTEMPTS - 1:
                raise SupcamError(
                    f"tracking store {shown(uri)} cannot be reached: {error}. "
                    "Start it, or correct or unset MLFLOW_TRACKING_URI."
                ) from error
            time.sleep(0.2 * 2**attempt * (1 + random.random()))
    raise AssertionError("unreachable")


def _one_at_a_time(root: Path, uri: str) -> contextlib.AbstractContextManager[object]:
    """Two processes that make the tables of a new sqlite file at once break each other; servers make their own."""
    if not uri.startswith("sqlite:///"):
        return contextlib.nullcontext()
    state_folder(root).mkdir(parents=True, exist_ok=True)
    return FileLock(state_folder(root) / "tracking.lock")


def get_run(client: Any, run_id: str) -> Any:
    """A run of the store; a UsageError when it cannot be read."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        what = f"run {run_id!r} is not in the tracking store: {error.message}"
        raise UsageError(f"{what}. The MLflow page lists them: supcam ui") from None


def experiment_of(client: Any, run_id: str) -> str:
    """Id of the experiment of the run above a stage.

    Raises:
        UsageError: when the store has no such run.
    """
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        raise UsageError(
            f"the run above, MLFLOW_RUN_ID = {run_id}, cannot be read: {error.message}. "
            "Set MLFLOW_TRACKING_URI to its store, or unset MLFLOW_RUN_ID."
        ) from None


def project_experiment(client: Any, root: Path) -> str:
    """Id of the experiment of the project's own runs, made if missing.

    It is that of ``MLFLOW_EXPERIMENT_ID``, else of ``MLFLOW_EXPERIMENT_NAME``, else ``supcam``.

    Raises:
        UsageError: when there is none of that id.
        SupcamError: when it was deleted, or cannot be made.
    """
    from mlflow.exceptions import MlflowException

    if asked := os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip():
        try:
            return _active(client.get_experiment(asked))
        except MlflowException as error:
            raise UsageError(
                f"MLFLOW_EXPERIMENT_ID = {asked!r} cannot be read: {error.message}. "
                "Set it to an experiment of the store, or unset it."
            ) from None
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    for _ in range(_ATTEMPTS):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return _active(found)
        # Another process may make it between the question and the answer; then the next round finds it.
        with contextlib.suppress(MlflowException):
            return str(client.create_experiment(name, artifact_location(root, tracking_uri(root)), _EXPERIMENT_TAGS))
        time.sleep(0.2 * (1 + random.random()))
    raise SupcamError(f"experiment {name!r} could neither be found nor made in {tracking_uri(root)}. Run again.")


def _active(experiment: Any) -> str:
    if experiment.lifecycle_stage != "active":
        raise SupcamError(
            f"experiment {experiment.name!r} was deleted. "
            f"Run: mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)
