"""Content hashes as ``dvc.lock`` records them, computed without calling DVC (which would wait for its own locks)."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supcam.errors import UsageError

_ALWAYS_IGNORED = (".hg/", ".git/", ".git", ".dvc/")


def file_hash(path: Path) -> str:
    """md5 of the bytes, 32 hexadecimal digits."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def dir_hash(folder: Path, root: Path | None = None) -> str:
    """md5 of the sorted list of files and their md5, with the suffix ``.dir``; ``.dvcignore`` of ``root`` is obeyed."""
    entries = [{"md5": file_hash(path), "relpath": name} for name, path in _files(folder, root)]
    entries.sort(key=lambda entry: entry["relpath"])
    listing = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def path_hash(path: Path, root: Path | None = None) -> str | None:
    """Hash of a file or folder; None when it does not exist."""
    if path.is_dir():
        return dir_hash(path, root)
    return file_hash(path) if path.is_file() else None


def stage_inputs(
    root: Path, stage: str, located: Mapping[str, Path] | None = None, known: dict[Path, str | None] | None = None
) -> dict[str, dict[str, Any]]:
    """What a stage of ``dvc.yaml`` depends on, as its entry in ``dvc.lock`` will record it.

    Args:
        root: The project root.
        stage: Name in ``dvc.yaml``.
        located: Where a dependency really lies, for runs that read another folder than DVC would.
        known: Hashes that are known already, by path; those computed here are added.

    Returns:
        ``{"deps": {path: md5 or None when missing}, "params": {"file:key": value}}``.

    Raises:
        UsageError: for a stage that ``dvc.yaml`` does not have.
    """
    stages = _stages(root)
    if stage not in stages:
        raise UsageError(f"stage {stage!r} is not in {root / 'dvc.yaml'}; it has {', '.join(stages)}.")
    definition = stages[stage]
    names = [name if isinstance(name, str) else next(iter(name)) for name in definition.get("deps", [])]
    located = located or {}
    paths = {name: located.get(name, root / name) for name in names}
    known = {} if known is None else known
    # What lies elsewhere is hashed whole: .dvcignore leaves out runs/, where all of it would lie.
    missing = {path: None if name in located else root for name, path in paths.items() if path not in known}
    known |= {path: path_hash(path, base) for path, base in missing.items()}
    deps = {name: known[path] for name, path in paths.items()}
    return {"deps": deps, "params": _params(root, definition.get("params", []), located)}


def stage_names(root: Path) -> list[str]:
    """Stages of ``dvc.yaml`` in its order; none when there is no such file."""
    return list(_stages(root))


def stage_outs(root: Path) -> list[str]:
    """Every output, metric and plot path that ``dvc.yaml`` names."""
    found = []
    for definition in _stages(root).values():
        for kind in ("outs", "metrics", "plots"):
            found += [name if isinstance(name, str) else next(iter(name)) for name in definition.get(kind, [])]
    return found


def _stages(root: Path) -> dict[str, Any]:
    return (_read_yaml(root / "dvc.yaml").get("stages") or {}) if (root / "dvc.yaml").is_file() else {}


def _params(root: Path, declared: list[Any], located: Mapping[str, Path]) -> dict[str, Any]:
    wanted: dict[str, list[str] | None] = {}
    for item in declared:
        for file, keys in item.items() if isinstance(item, dict) else [("params.yaml", [item])]:
            wanted[file] = None if keys is None else (wanted.get(file) or []) + keys
    values = {}
    for file, keys in wanted.items():
        path = located.get(file, root / file)
        content = _read_yaml(path) if path.is_file() else {}
        for key in content if keys is None else keys:
            found, value = _lookup(content, key)
            if found:
                values[f"{file}:{key}"] = value
    return values


def _lookup(content: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False, None
        content = content[part]
    return True, content


def _read_yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML  # DVC's own parser: PyYAML reads 1e-4 as text and "no" as false

    return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}


def _files(folder: Path, root: Path | None) -> Iterator[tuple[str, Path]]:
    from pathspec import GitIgnoreSpec

    base = (root or folder).resolve()
    patterns = list(_ALWAYS_IGNORED)
    if (base / ".dvcignore").is_file():
        patterns += (base / ".dvcignore").read_text(encoding="utf-8").splitlines()
    spec = GitIgnoreSpec.from_lines(patterns)

    def ignored(path: str, suffix: str = "") -> bool:
        relative = os.path.relpath(path, base)
        return not relative.startswith("..") and spec.match_file(relative + suffix)

    top = str(folder.resolve())
    for parent, folders, files in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not ignored(f"{parent}/{name}", "/")]
        for name in files:
            path = f"{parent}/{name}"
            if not ignored(path):
                yield Path(path).relative_to(top).as_posix(), Path(path)
