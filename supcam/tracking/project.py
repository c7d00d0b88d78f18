"""Where a project is, and where its runs are stored."""

import os
from pathlib import Path
from urllib.parse import unquote
from urllib.request import pathname2url

from supcam.errors import UsageError

EXPERIMENT = "supcam"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DVC_NO_ANALYTICS": "1",
}


def quiet() -> None:
    """Keep the libraries from calling home and from chatter; call it before any of them is imported.

    A value set by the user stays.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def project_root(start: Path | None = None) -> Path:
    """The nearest parent of ``start`` (default: the working directory) that holds ``dvc.yaml``.

    Raises:
        UsageError: when there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UsageError(
        f"{here} is not in a supcam project: neither it nor a parent holds dvc.yaml. Change into a project."
    )


def store_root(root: Path) -> Path:
    """The project whose store is used: of a DVC experiment in a temporary folder, the project that queued it."""
    parts = root.resolve().parts
    for at in range(len(parts) - 3, 0, -1):
        if parts[at : at + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:at])
    return root.resolve()


def state_folder(root: Path) -> Path:
    """Folder ``state/`` of the project whose store is used: locks, checkpoints, studies, plans of ``reproduce``."""
    return store_root(root) / "state"


def in_dvc_experiment(root: Path) -> bool:
    """Whether this is a trial of ``dvc exp run``, in place, queued or in a temporary folder."""
    return bool(os.environ.get("DVC_EXP_NAME")) or store_root(root) != root.resolve()


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI``, else the sqlite file that a bare MLflow picks when started in ``root`` (absolute).

    Raises:
        UsageError: for a variable that names a folder, which MLflow no longer takes as a store, or another registry.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "").strip()
    if registry and registry != uri:
        raise UsageError(
            f"MLFLOW_REGISTRY_URI = {registry!r} is another store than that of the runs; supcam keeps both in one. "
            "Unset it, or set MLFLOW_TRACKING_URI to the same address."
        )
    if not uri:
        # Percent-encoded as MLflow itself does, so that a folder with spaces is one store and not two.
        return "sqlite:///" + pathname2url(str(store_root(root) / "mlflow.db"))
    if "://" not in uri or uri.startswith("file:"):
        raise UsageError(
            f"MLFLOW_TRACKING_URI = {uri!r} is a folder, which MLflow no longer takes as a store. "
            "Use sqlite:////absolute/path/mlflow.db, an http address, or unset it."
        )
    return uri


def artifact_location(root: Path, uri: str) -> str | None:
    """Absolute folder for the artifacts of a database store; None when an MLflow server decides."""
    if uri.startswith("sqlite:///") and uri != "sqlite:///:memory:":
        return (Path(unquote(uri.removeprefix("sqlite:///"))).resolve().parent / "mlartifacts").as_uri()
    if uri.startswith(("postgresql", "mysql", "mssql", "sqlite")):
        return (store_root(root) / "mlartifacts").as_uri()
    return None
