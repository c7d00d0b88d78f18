"""The versions of the data folder, recorded and compared through the ``dvc`` command."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from supcam.errors import MissingExtra, SupcamError, UsageError

# DVC ends with the command that called it: else, after a SIGKILL, it would go on changing what the next one repairs.
# Where no process collects the killed one (a container without init), DVC takes it for living and its lock for held.
_CHILD = """
import ctypes, os, signal, sys
import psutil
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
psutil.pid_exists = lives
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""
_NO_GIT = "Run: git init; or, to do without git: dvc config core.no_scm true"


def pointer_of(data: Path) -> Path:
    """The file that names the version of a data folder: ``data.dvc`` beside ``data``."""
    return data.with_name(f"{data.name}.dvc")


def is_versioned(data: Path) -> bool:
    """Whether a data folder, or a link to one, lies in a DVC project and so gets versions."""
    beside = data.parent.resolve()
    return any((folder / ".dvc").is_dir() for folder in (beside, *beside.parents))


def require_checked_out(data: Path) -> None:
    """Refuse to build on data that are not the version ``data.dvc`` names.

    Raises:
        UsageError: when they are missing or were changed, with the command that gets them.
    """
    pointer = pointer_of(data)
    if not pointer.is_file():
        return
    if not data.is_dir():
        raise UsageError(
            f"{pointer.name} names data that are not checked out. Run: dvc pull {pointer.name} "
            "(or start from scratch: --replace)"
        )
    state = json.loads(_dvc(["status", "--json", pointer.name], data.parent) or "{}")
    # Each change is a text, or a mapping from what changed to the state of every file.
    changes = [change for change in state.get(pointer.name, []) if isinstance(change, dict)]
    if any({"modified", "deleted", "new"} & set(change.get("changed outs", {}).values()) for change in changes):
        raise UsageError(
            f"{data.name}/ differs from the version that {pointer.name} names. Go back to it: dvc pull {pointer.name} "
            f"and dvc checkout --force {pointer.name}; or keep your changes: dvc add {data.name}; "
            "or start from scratch: --replace"
        )


def record_version(data: Path) -> None:
    """Record the present content of a data folder as its new version (``dvc add``).

    Raises:
        SupcamError: with DVC's own words when it fails.
    """
    _dvc(["add", data.name], data.parent)


def fetch_manifest(data: Path, revision: str, target: Path) -> None:
    """Get the manifest of a data folder as a git revision named it (``dvc get``), from the cache or the remote.

    Raises:
        UsageError: for an unknown revision.
        SupcamError: for data that neither cache nor remote holds.
    """
    unknown = UsageError(
        f"version {revision!r} is not a git revision of this project. Give a commit or tag (git log --oneline -- "
        f"{pointer_of(data).name}), a data folder, a manifest or 'workspace'."
    )
    if revision.startswith("-"):  # DVC would take it for an option
        raise unknown
    file = f"{data.name}/manifest.csv"
    try:
        _dvc(["get", "--rev", revision, "--out", str(target.resolve()), ".", file], data.resolve().parent)
    except SupcamError as error:
        if "unknown Git revision" in str(error):
            raise unknown from None
        raise


def _dvc(arguments: list[str], folder: Path) -> str:
    if find_spec("dvc") is None:
        raise MissingExtra("Versions of the data")
    command, environment = [sys.executable, "-c", _CHILD, *arguments], {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        # DVC ends its errors with an offer of help, after an empty line.
        words = (done.stderr or done.stdout).strip().removeprefix("ERROR: ").split("\n\n")[0].replace("\n", " ")
        remedy = f". {_NO_GIT}" if "is not a git repository" in words else ""
        what = f"dvc {' '.join(arguments)} failed in {folder}"
        raise SupcamError(f"{what}: {words or f'exit code {done.returncode}'}{remedy}")
    return done.stdout
