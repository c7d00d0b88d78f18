"""What a run ran on: commit, changes, packages, device."""

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from supcam.settings import Settings
from supcam.tracking.hashes import stage_inputs, stage_names, stage_outs

_PACKAGES = ("supcam", "numpy", "pandas", "torch", "torchvision", "lightning", "mlflow", "dvc", "optuna", "onnxruntime")
_MAX_DIFF = 5_000_000


@dataclass(frozen=True)
class GitState:
    """The commit of a project and what differs from it, ``dvc.lock`` and what the pipeline writes left aside."""

    commit: str | None
    dirty: bool
    diff: str


def git_state(root: Path) -> GitState:
    """Commit, dirty flag and the difference as a patch (new files included, cut to nothing above 5 MB)."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return GitState(None, False, "")
    products = ["dvc.lock", *stage_outs(root)]
    where = ["--", ".", *(f":(exclude){name}" for name in products)]
    if not _git(root, "status", "--porcelain", "--untracked-files=all", *where):
        return GitState(commit.strip(), False, "")
    diff = _diff_with_new_files(root, where)
    return GitState(commit.strip(), True, diff if len(diff) <= _MAX_DIFF else "")


def _diff_with_new_files(root: Path, where: list[str]) -> str:
    index = (_git(root, "rev-parse", "--git-path", "index") or "").strip()
    with tempfile.TemporaryDirectory() as folder:
        # New files are marked in a copy of the index: the user's own index stays as it is. The copy keeps the time
        # of the file: with a newer one git takes a file that changed in the same second for unchanged.
        scratch = Path(folder) / "index"
        if (root / index).is_file():
            shutil.copy2(root / index, scratch)
        env = {"GIT_INDEX_FILE": str(scratch)}
        _git(root, "add", "--intent-to-add", *where, env=env)
        return _git(root, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", *where, env=env) or ""


def _git(root: Path, *args: str, env: Mapping[str, str] | None = None) -> str | None:
    command = ["git", "-C", str(root), *args]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", **(env or {})}
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
    except FileNotFoundError:
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; those not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def all_versions() -> str:
    """Every installed distribution as ``name==version`` lines, sorted."""
    found = {f"{item.name}=={item.version}" for item in metadata.distributions() if item.name}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def device_name(device: str) -> str:
    """Model of the processor or graphics card that a device setting (``auto``, ``cpu``, ``cuda``) means here."""
    may_be_cuda = device.startswith("cuda") or (device == "auto" and Path("/proc/driver/nvidia").exists())
    if may_be_cuda or (device == "auto" and "torch" in sys.modules):
        import torch

        if torch.cuda.is_available():
            number = int(device.partition(":")[2] or 0)
            return f"cuda:{number} {torch.cuda.get_device_name(number)}"
    return f"cpu {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def run_tags(root: Path, stage: str, settings: Settings, located: Mapping[str, Path] | None = None) -> dict[str, str]:
    """Tags of a stage's run: commit, dirty flag, profile, seed, device, versions and the hash of every input."""
    state = git_state(root)
    tags = {
        "supcam.stage": stage,
        "supcam.profile": settings.profile,
        "supcam.seed": str(settings.runtime.seed),
        "supcam.threads": str(settings.runtime.threads),
        "supcam.device": device_name(settings.runtime.device),
        "supcam.versions": json.dumps(package_versions(), sort_keys=True),
        "supcam.git.dirty": str(state.dirty).lower(),
        "mlflow.source.name": str(root),
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user(),
    }
    if state.commit:
        tags |= {"supcam.git.commit": state.commit, "mlflow.source.git.commit": state.commit}
    # A run beside the pipeline (a study by hand, a benchmark) has no entry in dvc.yaml and so no hashes to record.
    return tags | (_input_tags(stage_inputs(root, stage, located)) if stage in stage_names(root) else {})


def run_of(client: Any, experiment: str, stage: str, inputs: Mapping[str, Any]) -> Any | None:
    """The newest finished run of a stage that had the ``inputs`` of :func:`stage_inputs`; None when there is none."""
    wanted = _input_tags(inputs)
    runs = client.search_runs([experiment], f"tags.`supcam.stage` = '{stage}' and attributes.status = 'FINISHED'")
    return next((run for run in runs if wanted.items() <= run.data.tags.items()), None)


def user() -> str:
    """Who runs this: the MLflow user when one is set, else the user of the system."""
    if named := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid {os.getuid()}"


def _input_tags(inputs: Mapping[str, Any]) -> dict[str, str]:
    deps = {f"supcam.dep/{_safe(name)}": str(value or "missing") for name, value in inputs["deps"].items()}
    return deps | {f"supcam.param/{_safe(name)}": json.dumps(value) for name, value in inputs["params"].items()}


def _safe(name: str) -> str:
    """A tag name MLflow takes: letters, digits, ``_ - . : /`` and spaces."""
    return "".join(char if char.isalnum() or char in "_-.:/ " else "_" for char in name).lstrip("/")
