"""Whether the files of a registered version are those that were registered: package, code and what MLflow loads."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from supcam.registry.card import content_hash_of_earlier_versions, load_card
from supcam.serving.engine import CARD_FILE, PackageError, content_hash, verify_package

CONTENT_TAG = "supcam.content"
SHIPPED_TAG = "supcam.shipped"
LOADER = "serving.served"
_REMEDY = "Run: dvc repro, which registers the model again, or go back: supcam rollback"


def check_registered(model: Path, tags: Mapping[str, str], who: str) -> None:
    """Compare the files of a version, below the folder of its MLflow model, with the hashes in its tags.

    Versions that an earlier supcam registered are compared as it did: without card, stored answers and code.

    Raises:
        PackageError: when a file is missing or another, or a tag that names the hash is.
    """
    package = package_below(model)
    shipped, expected = tags.get(SHIPPED_TAG, ""), tags.get(CONTENT_TAG, "")
    if expected == content_hash(package, shipped):
        # A network without a card is loaded by MLflow itself, from files that are all in the hash.
        whole = package == model and not (package / CARD_FILE).exists()
        if not whole and (code_of(model) != shipped or not _loads_as_registered(model, shipped)):
            raise PackageError(f"the code of {who} in {model} is not that which was registered. {_REMEDY}")
    elif expected != content_hash_of_earlier_versions(load_card(package), verify_package(package), shipped):
        raise PackageError(
            f"the files of {who} in {package} are not those that were registered, or its tag {CONTENT_TAG} was "
            f"changed. {_REMEDY}"
        )


def covers_every_file(package: Path, tags: Mapping[str, str]) -> bool:
    """Whether the registered hash covers card and stored answers too, which those of earlier versions do not."""
    return tags.get(CONTENT_TAG) == content_hash(package, tags.get(SHIPPED_TAG, ""))


def hash_of_code(code: Mapping[str, str], requirements: list[str]) -> str:
    """SHA-256 of the code, sources by path, and the requirements that travel with a model, hexadecimal."""
    return hashlib.sha256(
        json.dumps({"code": dict(code), "requirements": requirements}, sort_keys=True).encode()
    ).hexdigest()


def code_of(model: Path) -> str:
    """SHA-256 of the code in the folder of an MLflow model, "" where it cannot be read or is more than sources."""
    try:
        # MLflow puts the folder on the search path: another module beside the library would be found there.
        libraries = [path for path in (model / "code").iterdir() if path.name != "__pycache__"]
        requirements = (model / "requirements.txt").read_text(encoding="utf-8").splitlines()
        files = [
            (library, path)
            for library in libraries
            for path in library.rglob("*")
            if not path.is_dir() and path.parent.name != "__pycache__"
        ]
        # Python would find a compiled module before the source of its name.
        if len(libraries) != 1 or any(path.suffix != ".py" for _, path in files):
            return ""
        code = {path.relative_to(library).as_posix(): path.read_text(encoding="utf-8") for library, path in files}
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if code.pop("__init__.py", None) != "" else hash_of_code(code, requirements)


def package_below(model: Path) -> Path:
    """The package inside the folder of an MLflow model; the folder itself where it is a package.

    MLflow keeps the data of a model below ``data``; earlier versions of supcam had it keep them below ``artifacts``.
    """
    return next(
        (path for path in (model / "data" / "package", model / "artifacts" / "package") if path.is_dir()), model
    )


def _loads_as_registered(model: Path, shipped: str) -> bool:
    """Whether MLflow loads the package by the code beside it and nothing else, and installs what that code needs."""
    try:
        described, conda, environment = (
            yaml.safe_load((model / name).read_text(encoding="utf-8"))
            for name in ("MLmodel", "conda.yaml", "python_env.yaml")
        )
        loaded = {name: described["flavors"]["python_function"][name] for name in ("loader_module", "data", "code")}
        *interpreter, packages = conda["dependencies"]
        tools = {re.split("[<=>]", one)[0] for one in [*interpreter, *environment["build_dependencies"]]}
        installed = conda["channels"], packages["pip"], environment["dependencies"]
        requirements = (model / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError):
        return False
    wanted = {"loader_module": f"supcam_model_{shipped[:12]}.{LOADER}", "data": "data/package", "code": "code"}
    return (
        loaded == wanted
        and list(described["flavors"]) == ["python_function"]
        and installed == (["conda-forge"], requirements, ["-r requirements.txt"])
        and tools <= {"python", "pip", "setuptools", "wheel"}
    )
