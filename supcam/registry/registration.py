"""Log a package as an MLflow model made from code, and register it once under the alias ``candidate``."""

import io
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from supcam.files import write_text
from supcam.registry.card import ModelCard, load_card
from supcam.registry.description import describe, metric_values
from supcam.registry.evidence import checked_split, stored_answers
from supcam.registry.integrity import LOADER, hash_of_code
from supcam.registry.reach import RegistryError
from supcam.registry.rules import Validation
from supcam.registry.store import CANDIDATE, Registry, Tag, Version
from supcam.serving.engine import ANSWER_COLUMNS, content_hash

# What travels with a model, below the folder of supcam: all that serving/ imports, by relative imports.
_SHIPPED = ("errors.py", "cluster_type.py", "serving/**/*.py")
# What a model needs to predict, no training package among it.
REQUIREMENTS = [
    "mlflow-skinny>=3.13",
    "onnxruntime>=1.20",
    "numpy>=2.0",
    "pandas>=2.2",
    "pillow>=11.0",
    "tifffile>=2024.8",
]
_REGISTRATION_WAIT = 120.0  # seconds
_DESCRIPTION = """Names the type of the chromosome cluster that a crop shows: instance, touching, overlapping or
touching-overlapping. Input: the bytes of an image file. Output: type, confidence, a probability for each type, and
whether a person should look at the crop, with the reason.

`mlflow.pyfunc.load_model("models:/{name}@production")` loads the version in production; the aliases `candidate` and
`previous` are the newest version and the one that was in production before. Every version's description is its card.
"""


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

    The code that ships with it counts as a part of the model: a model with corrected code is a version of its own.
    Files of a registered version that were damaged or deleted are written again.

    Args:
        package: Folder written by :func:`supcam.registry.package.package_model`.
        run_id: Run that made the model; its artifacts hold the files.
        tracking_uri: Tracking and registry address.
        validation: That of the data, kept with the version for later promotions.
        tags: Of a new version, for example the chain of stages upstream.
        name: Of the registered model.

    Raises:
        PackageError: when the package is incomplete or was changed.
        Busy: when a promotion holds the registry for longer than two minutes.
    """
    card, shipped = load_card(package), shipped_hash()
    content = content_hash(package, shipped)
    stored_answers(package)
    checked_split(package)
    registry = Registry(tracking_uri, name, create=True)
    _ensure_model(registry)
    with registry.lock(wait=_REGISTRATION_WAIT):
        same = [version for version in registry.versions()[::-1] if version.tags.get(Tag.CONTENT) == content]
        version = next((one for one in same if _restored(registry, one, package)), None)  # the oldest
        if version is None:
            metrics = {Tag.METRIC + metric: repr(value) for metric, value in card.validation.items()}
            metrics |= {Tag.TEST + name: repr(metric.value) for name, metric in card.metrics.items()}
            hashes = {Tag.DATA: card.data.manifest_hash, Tag.CODE: card.code_hash, Tag.CONTENT: content}
            version = _add(registry, package, card, run_id, {**(tags or {}), **metrics, **hashes, Tag.SHIPPED: shipped})
        if validation is not None:
            outcome = json.dumps(asdict(validation), sort_keys=True)
            registry.client.set_model_version_tag(name, str(version.number), Tag.VALIDATION, outcome)
        registry.client.set_registered_model_alias(name, CANDIDATE, str(version.number))
    return version


def save_served(package: Path, out: Path) -> Path:
    """Write the MLflow model of a package into ``out``: MLmodel, requirements, the package and the code it needs.

    MLflow puts ``code_paths`` on the search path and imports the loader module by its name when the model is loaded.
    Saving runs none of that code, in contrast to MLflow's other way of a model from code.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kinds = {"type": "string", "needs_review": "boolean", "reason": "string"}
    outputs: list[Any] = [ColSpec(kinds.get(column, "double"), column) for column in ANSWER_COLUMNS]
    with tempfile.TemporaryDirectory() as scratch:
        # The name holds the hash: no installed supcam and no model of other code in the same process is in its way.
        code = shipped_code()
        shipped = hash_of_code(code, REQUIREMENTS)
        library, data = Path(scratch) / f"supcam_model_{shipped[:12]}", Path(scratch) / "package"
        for path, source in {"__init__.py": "", **code}.items():
            write_text(library / path, source)
        shutil.copytree(package, data)
        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # not that the example fits the signature
        mlflow.pyfunc.save_model(
            path=str(out),
            loader_module=f"{library.name}.{LOADER}",
            data_path=str(data),
            code_paths=[str(library)],
            pip_requirements=REQUIREMENTS,
            # The loader compares the package with these: its own list of hashes could be changed with its files.
            metadata={Tag.CONTENT: content_hash(data, shipped), Tag.SHIPPED: shipped},
            signature=ModelSignature(inputs=Schema([ColSpec("binary", "image")]), outputs=Schema(outputs)),
            input_example=pd.DataFrame({"image": [_example_crop()]}),
        )
    return out


def _example_crop() -> bytes:
    """A PNG of one drawn bar on white: no crop of a patient goes into the example of a model."""
    from PIL import Image, ImageDraw

    crop, file = Image.new("L", (64, 64), 255), io.BytesIO()
    ImageDraw.Draw(crop).line((20, 10, 44, 54), fill=90, width=12)
    crop.save(file, "PNG")
    return file.getvalue()


def shipped_code() -> dict[str, str]:
    """Sources copied into each model, by path below its own package, so that it needs no supcam."""
    root = Path(__file__).resolve().parents[1]
    paths = sorted(path for pattern in _SHIPPED for path in root.glob(pattern))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def shipped_hash() -> str:
    """SHA-256 of the code and the requirements that travel with a model, hexadecimal."""
    return hash_of_code(shipped_code(), REQUIREMENTS)


def _ensure_model(registry: Registry) -> None:
    from mlflow.exceptions import MlflowException

    try:
        registry.client.create_registered_model(registry.name, description=_DESCRIPTION.format(name=registry.name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise RegistryError(f"model {registry.name} cannot be created: {error}.") from None


def _restored(registry: Registry, version: Version, package: Path) -> bool:
    """Whether the files of a version are those that were registered, written again from ``package`` if need be."""
    from mlflow.exceptions import MlflowException

    if registry.readable(version.number):
        return True
    try:
        with tempfile.TemporaryDirectory() as scratch:
            saved = str(save_served(package, Path(scratch) / "model"))
            if Tag.LOGGED in version.tags:
                logged = registry.client.get_logged_model(version.tags[Tag.LOGGED])
                if logged.tags.get(Tag.CONTENT) != version.tags.get(Tag.CONTENT):
                    return False  # the tag was changed by hand: these are the files of another version
                registry.client.log_model_artifacts(version.tags[Tag.LOGGED], saved)
            else:
                run_id, path = registry.source(version)
                registry.client.log_artifacts(run_id, saved, path)
    except (MlflowException, OSError):  # its run or its logged model was deleted: the model gets a version of its own
        return False
    return registry.readable(version.number)


def _add(registry: Registry, package: Path, card: ModelCard, run_id: str, tags: Mapping[str, str]) -> Version:
    """Log the model with its metrics, then register it: MLflow lists and compares logged models by their metrics."""
    client, run = registry.client, registry.client.get_run(run_id)
    experiment, commit = run.info.experiment_id, run.data.tags.get("mlflow.source.git.commit", "")
    tags = dict(tags) | ({Tag.COMMIT: commit} if commit else {})
    trained_by = f"#/experiments/{experiment}/runs/{tags[Tag.TRAINED_BY]}" if Tag.TRAINED_BY in tags else ""
    params = {"encoder": card.encoder, "size": str(card.input.size), "profile": str(card.settings.get("profile", ""))}
    model = client.create_logged_model(experiment, registry.name, run_id, tags, params, "classifier")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            saved = save_served(package, Path(scratch) / "model")
            client.log_model_artifacts(model.model_id, str(saved))
        now = int(time.time() * 1000)
        for name, value in metric_values(card).items():
            client.log_metric(run_id, name, value, now, model_id=model.model_id)
        client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    created = client.create_model_version(
        registry.name,
        # Its address and not models:/ID, which the database's own store resolves at MLflow's global address.
        source=model.artifact_location,
        run_id=run_id,
        tags=tags | {Tag.LOGGED: model.model_id},
        description=describe(package, card, commit=commit, trained_by=trained_by),
        model_id=model.model_id,
    )
    listed = json.dumps([{"name": registry.name, "version": str(created.version)}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": listed})  # the page of the model links to it
    return registry.version(int(created.version))
