"""A small project of its own for tests that run real processes: a copy of this checkout with a few drawn crops."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.imports import ROOT

BIN = Path(sys.executable).parent
SMALL = {
    "runtime": {"threads": 1, "progress": False},
    "input": {"size": 32},
    "validate": {"min_crops_per_type": 2},
    "compose": {"count": 24, "drawn": {"looks": 0, "share": 0.0}},
    "tune": {"trials": 2, "pretrain_epochs": 1, "finetune_epochs": 1},
    "pretrain": {"epochs": 2, "batch_size": 16, "queue_size": 32},
    "finetune": {"epochs": 2, "batch_size": 16},
    "evaluate": {"bootstrap": 50},
    # Two epochs and a few test crops: the calibration error is what the processor's rounding makes of them.
    "promote": {"max_calibration_error": 1.0},
}


def environment(**extra: str) -> dict[str, str]:
    """A process environment with this interpreter first and no variable that points at another store or run."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "GIT_"))}
    quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "GX_ANALYTICS_ENABLED": "false"}
    return {**kept, **quiet, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **extra}


def call(project: Path, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a project and keep what it says."""
    return subprocess.run(
        command, cwd=project, env=environment(**extra), capture_output=True, text=True, timeout=3600, check=False
    )


def succeed(project: Path, *command: str, **extra: str) -> str:
    """Run a command that must end 0; returns its output."""
    done = call(project, *command, **extra)
    assert done.returncode == 0, f"{' '.join(command)} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def copy_checkout(target: Path) -> None:
    """Copy what git tracks or would track, data and the products of stages left aside, and commit it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    left_aside = ("tests/", "data.dvc", "dvc.lock", "outputs/", ".dvc/sample-store/", "docs/")
    for name in listed.stdout.splitlines():
        if not name.startswith(left_aside) and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    git(target, "init", "--quiet")
    commit(target, "start")


def git(project: Path, *command: str) -> str:
    """Run git as a test author."""
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    return succeed(project, "git", *who, *command)


def commit(project: Path, message: str) -> None:
    """Commit everything that is not ignored."""
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", message)


def change_settings(project: Path, changes: dict[str, dict[str, object]]) -> None:
    """Write settings into params.yaml."""
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, keys in changes.items():
        values.setdefault(section, {}).update(keys)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def small_project(target: Path, *, crops: int = 160, cases: int = 10, seed: int = 7, source: str = "drawn") -> Path:
    """A committed project with a few synthetic crops and settings that train in seconds."""
    target.mkdir()
    copy_checkout(target)
    change_settings(target, SMALL)
    numbers = ("--crops", str(crops), "--cases", str(cases), "--seed", str(seed))
    succeed(target, "supcam", "synthesize", "--into", source, *numbers)
    succeed(target, "supcam", "import", source)
    shutil.rmtree(target / source)
    commit(target, "small data")
    return target
