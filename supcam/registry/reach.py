"""Where a registry is: its address, whether it answers, and the explicit MLflow client for it."""

import socket
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from supcam.errors import SupcamError, UsageError
from supcam.tracking import quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REACH_SECONDS = 5.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class RegistryError(SupcamError):
    """The registry cannot be reached, or does not hold what was asked for."""


def open_client(uri: str, *, create: bool = False) -> "MlflowClient":
    """An MLflow client for ``uri``, after a short check that something is there.

    Raises:
        UsageError: when ``uri`` is of no known kind.
        RegistryError: when the database does not exist (unless ``create``) or the server does not answer.
    """
    _check_reachable(uri, create)
    quiet()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, ImportError) as error:
        raise UsageError(f"{shown(uri)} is not a registry address: {error}. Set MLFLOW_TRACKING_URI.") from None


def shown(uri: str) -> str:
    """The address without a password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest else uri


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
