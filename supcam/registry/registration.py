"""Log a package as an MLflow model made from code, and register it once under the alias ``candidate``."""

import hashlib
import json
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import supcam
from supcam.registry.card import ModelCard, content_hash, load_card
from supcam.registry.rules import Validation
from supcam.registry.store import (
    CANDIDATE,
    CODE_TAG,
    CONTENT_TAG,
    DATA_TAG,
    FIGURE_TAG,
    SHIPPED_TAG,
    VALIDATION_TAG,
    Registry,
    RegistryError,
    Version,
)
from supcam.serving.engine import PROBABILITY_COLUMNS, verify_package

_SERVED = "serving/served.py"
_OWN_IMPORT = re.compile(r"^(\s*from )supcam\.([\w.]+)", flags=re.MULTILINE)

_NEEDED = {"mlflow-skinny": "3.13", "onnxruntime": "1.20", "numpy": "2.0", "pandas": "2.2", "pillow": "11.0"}
_REGISTRATION_WAIT = 120.0  # seconds


def register_candidate(
    package: Path,
    *,
    run_id: str,
    tracking_uri: str,
    validation: Validation | None = None,
    tags: Mapping[str, str] | None = None,
    name: str = "supcam",
) -> Version:
    """Register a package and point ``candidate`` at it; the same model on the same data is never registered twice.

    The code that ships with it counts as a part of the model: a model with mended code takes a version of its own.

    Args:
        package: Folder written by :func:`supcam.registry.package.package_model`.
        run_id: Run that made the model; its artifacts hold the files.
        tracking_uri: Tracking and registry address.
        validation: Outcome of the data validation, kept with the version for later promotions.
        tags: Tags of a new version, for example the chain of stages upstream.
        name: Name of the registered model.

    Raises:
        PackageError: when the package is incomplete or was changed.
        Busy: when a promotion holds the registry for longer than two minutes.
    """
    card = load_card(package)
    shipped = shipped_hash()
    content = content_hash(card, verify_package(package), shipped)
    registry = Registry(tracking_uri, name, create=True)
    _ensure_model(registry)
    with registry.lock(wait=_REGISTRATION_WAIT):
        version = registry.by_content(content)
        if version is None:
            described = {**(tags or {}), **_card_tags(card), CONTENT_TAG: content, SHIPPED_TAG: shipped}
            version = _log_and_register(registry, package, run_id, described)
        if validation is not None:
            outcome = json.dumps(asdict(validation), sort_keys=True)
            registry.client.set_model_version_tag(name, str(version.number), VALIDATION_TAG, outcome)
        registry.client.set_registered_model_alias(name, CANDIDATE, str(version.number))
    return version


def save_served(package: Path, out: Path) -> Path:
    """Write the MLflow model of a package into ``out``: MLmodel, requirements, the package and the code it needs."""
    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        library, served = _write_shipped(Path(scratch))
        data = Path(scratch) / "package"
        shutil.copytree(package, data)
        before = dict(sys.modules)
        with warnings.catch_warnings():
            # The signature is explicit, so the advice to give an example input is not for us.
            warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
            mlflow.pyfunc.save_model(
                path=str(out),
                python_model=str(served),
                artifacts={"package": str(data)},
                code_paths=[str(library)],
                pip_requirements=requirements(),
                signature=_signature(),
            )
        for added in [key for key in sys.modules if key.startswith("code_model_") and key not in before]:
            del sys.modules[added]
    return out


def requirements() -> list[str]:
    """What a model needs to predict, no training package among it."""
    return [f"{name}>={lowest}" for name, lowest in _NEEDED.items()]


def shipped_code() -> dict[str, str]:
    """Sources copied into each model, by path: what serves it and all that this imports, so that it needs no supcam."""
    sources: dict[str, str] = {}
    waiting = [_SERVED]
    while waiting:
        path = waiting.pop()
        if path not in sources:
            sources[path] = _source(path)
            waiting += [name.replace(".", "/") + ".py" for _, name in _OWN_IMPORT.findall(sources[path])]
    return sources


def shipped_hash() -> str:
    """SHA-256 of the code and the requirements that travel with a model, hexadecimal."""
    shipped = {"code": shipped_code(), "requirements": requirements()}
    return hashlib.sha256(json.dumps(shipped, sort_keys=True).encode()).hexdigest()


def _ensure_model(registry: Registry) -> None:
    from mlflow.exceptions import MlflowException

    try:
        registry.client.create_registered_model(
            registry.name, description="Type of chromosome cluster: instance, touching, overlapping, or both."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise RegistryError(f"model {registry.name} cannot be created: {error}.") from None


def _card_tags(card: ModelCard) -> dict[str, str]:
    figures = {FIGURE_TAG + figure: repr(value) for figure, value in card.validation.items()}
    return {DATA_TAG: card.data.manifest_hash, CODE_TAG: card.code_hash, **figures}


def _log_and_register(registry: Registry, package: Path, run_id: str, tags: Mapping[str, str]) -> Version:
    with tempfile.TemporaryDirectory() as scratch:
        saved = save_served(package, Path(scratch) / "model")
        # The path names the content: what an interrupted registration left is overwritten by the very same files.
        artifact = f"supcam-{tags[CONTENT_TAG][:12]}"
        registry.client.log_artifacts(run_id, str(saved), artifact)
    created = registry.client.create_model_version(
        registry.name, source=f"runs:/{run_id}/{artifact}", run_id=run_id, tags=dict(tags)
    )
    return registry.version(int(created.version))


def _write_shipped(folder: Path) -> tuple[Path, Path]:
    """The modules of ours, under a name that no installed supcam can stand in the way of, and the file that serves."""
    library, served = folder / f"supcam_model_{shipped_hash()[:12]}", folder / "served.py"
    for path, source in shipped_code().items():
        target = served if path == _SERVED else library / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_OWN_IMPORT.sub(rf"\1{library.name}.\2", source), encoding="utf-8")
    for package in {library, *(path.parent for path in library.rglob("*.py"))}:
        (package / "__init__.py").touch()
    return library, served


def _source(path: str) -> str:
    return (Path(supcam.__file__).parent / path).read_text(encoding="utf-8")


def _signature() -> object:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs: list[Any] = [ColSpec("string", "type"), ColSpec("double", "confidence")]
    outputs += [ColSpec("double", column) for column in PROBABILITY_COLUMNS]
    outputs += [ColSpec("boolean", "needs_review")]
    return ModelSignature(inputs=Schema([ColSpec("binary", "image")]), outputs=Schema(outputs))
