"""Where a registry is: its address, whether it answers, and the explicit MLflow client for it."""

import logging
import socket
from functools import wraps
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from supcam.errors import SupcamError, UsageError
from supcam.tracking import quiet, settle, shown, store_trouble

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REACH_SECONDS = 5.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class RegistryError(SupcamError):
    """The registry cannot be reached, or does not hold what was asked for."""


class _Client:
    """An ``MlflowClient`` whose calls say in one line what keeps the store from answering (``store_trouble``)."""

    def __init__(self, client: "MlflowClient", uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        @wraps(found)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return found(*arguments, **named)
            except Exception as error:  # MLflow's, the database driver's and those of HTTP have no class in common
                if said := store_trouble(error, self._uri):
                    raise RegistryError(said) from None
                raise

        return call


def open_client(uri: str, *, create: bool = False) -> "MlflowClient":
    """An MLflow client for ``uri``, after a short check that something is there.

    The database of a project that was moved or copied is pointed at its own artifacts.

    Raises:
        UsageError: when ``uri`` is of no known kind.
        RegistryError: when the database does not exist (unless ``create``) or the server does not answer; of its calls
            when the store is locked, read-only or refuses the user.
    """
    _check_reachable(uri, create)
    quiet()
    settle(uri)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs every error with its traceback
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return cast("MlflowClient", _Client(MlflowClient(tracking_uri=uri, registry_uri=uri), uri))
    except (MlflowException, ImportError) as error:
        raise UsageError(f"{shown(uri)} is not a registry address: {error}. Set MLFLOW_TRACKING_URI.") from None


def _check_reachable(uri: str, create: bool) -> None:
    """Ask in seconds what MLflow would try for minutes, and keep it from making a database where there is none."""
    if uri.startswith("sqlite:///") and not create:
        path = uri.removeprefix("sqlite:///")
        if not Path(path).is_file() and not Path(unquote(path)).is_file():
            raise RegistryError(
                f"no model is in production yet: there is no registry at {path}. Run in the project: dvc repro. "
                "Another registry: set MLFLOW_TRACKING_URI."
            )
    try:
        if uri.startswith(("http://", "https://")):
            _ask_server(uri)
        elif uri.startswith(tuple(_DATABASE_PORTS)):
            where = urlsplit(uri)
            port = where.port or _DATABASE_PORTS[where.scheme.partition("+")[0]]
            socket.create_connection((where.hostname or "localhost", port), _REACH_SECONDS).close()
    except (OSError, HTTPException, ValueError) as error:
        raise RegistryError(
            f"the registry {shown(uri)} does not answer: {getattr(error, 'reason', error)}. "
            "Check MLFLOW_TRACKING_URI and that the server runs."
        ) from None


def _ask_server(uri: str) -> None:
    # urlopen does not understand a name and password in the address, and the question does not need them.
    try:
        urlopen(f"{shown(uri).rstrip('/')}/health", timeout=_REACH_SECONDS).close()
    except HTTPError as error:
        if error.code >= 500:  # otherwise it is there, and MLflow reports what it does not allow
            raise
