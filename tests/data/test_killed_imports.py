"""An import killed at any step, in its own process or in the dvc that it calls, is finished or undone by the next."""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.data.versions import record_version
from tests.support.drawing import write_source

# Runs in every Python below: counts what it does to files, and at one count kills itself and, as a machine that loses
# its power would, the import that called it.
STEPS = """
import os, signal, sys

kind = "dvc" if any("dvc.cli" in text for text in sys.orig_argv) else "import"
wanted, at, log = os.environ["KILL_IN"], int(os.environ["KILL_AT"]), os.environ["KILL_LOG"]
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "shutil.move"}
count = 0

def step(event, args):
    global count
    if not (event in EVENTS or event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    if "__pycache__" in str(args[0]) or str(args[0]) == log:
        return
    count += 1
    if count == at:
        if kind == "dvc":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

if kind == wanted:
    sys.addaudithook(step)
    if not at:
        import atexit
        atexit.register(lambda: open(log, "w").write(str(count)))
"""
IMPORT = """
import sys
from pathlib import Path
from supcam.data.importers import import_sources
import_sources([Path(sys.argv[1])], Path(sys.argv[2]))
"""
Start = Callable[[Path, str, int], int]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Killed processes whose parent died too stay as zombies, as in a container without init."""
    if sys.platform != "linux":
        pytest.skip("a process adopts the orphans of others on Linux alone")
    adopt = 36  # PR_SET_CHILD_SUBREAPER
    ctypes.CDLL(None).prctl(adopt, 1)
    yield
    ctypes.CDLL(None).prctl(adopt, 0)
    for child in psutil.Process().children():
        if child.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(child.pid, 0)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Imports a second source, killed at a step of one process; returns the steps, of a killed one those until then."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(STEPS)
    write_source(tmp_path / "lab two", per_type=1, seed=7)

    def run(project: Path, kind: str, at: int) -> int:
        log = tmp_path / "steps"
        path = os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "PYTHONPATH": path, "KILL_IN": kind, "KILL_AT": str(at), "KILL_LOG": str(log)}
        command = [sys.executable, "-c", IMPORT, str(tmp_path / "lab two"), str(project / "data")]
        done = subprocess.run(command, env=environment, check=False, stderr=subprocess.DEVNULL)
        assert done.returncode == (-signal.SIGKILL if at else 0)
        return at or int(log.read_text())

    return run


def check_nothing_lost(project: Path, tmp_path: Path, first: set[str]) -> None:
    """Import a third source, and check files, manifest and the recorded version."""
    data, third = project / "data", write_source(tmp_path / "lab three", per_type=1, seed=11)
    import_sources([third], data)
    frame = read_manifest(data / "manifest.csv")
    found = set(frame["crop_id"])
    second = {crop_id for crop_id in found if crop_id.startswith("lab two/")}
    assert first <= found and len(second) in {0, 4}
    assert len(found) == len(frame) == len(first) + len(second) + 4
    on_disk = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    assert on_disk == {*frame["path"], "manifest.csv"}
    assert sorted(path.name for path in project.glob(".data*")) == [".data.lock"]
    digest = (project / "data.dvc").read_text().split("md5: ")[1].split()[0]
    listed = json.loads((project / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).read_text())
    assert {entry["relpath"] for entry in listed} == on_disk
    for entry in listed:
        cached = project / ".dvc" / "cache" / "files" / "md5" / entry["md5"][:2] / entry["md5"][2:]
        assert cached.read_bytes() == (data / entry["relpath"]).read_bytes()


def kill_and_check(start: Start, source: Path, project: Path, tmp_path: Path, cases: list[tuple[str, float]]) -> None:
    """Kill imports at shares (0 to 1) of the steps that a whole one takes; each begins with the first source alone."""
    import_sources([source], project / "data")
    first = set(read_manifest(project / "data" / "manifest.csv")["crop_id"])
    total: dict[str, int] = {}
    for number, (kind, share) in enumerate(cases):
        if kind not in total:
            total[kind] = start(shutil.copytree(project, tmp_path / f"whole {kind}"), kind, 0)
        copy = shutil.copytree(project, tmp_path / f"project {number}")
        # Fewer than all: how many steps DVC takes is not the same each time.
        start(copy, kind, 1 + int(share * 0.9 * total[kind]))
        check_nothing_lost(copy, tmp_path, first)
        shutil.rmtree(copy)


def test_killed_at_a_few_steps(start: Start, source: Path, dvc_project: Path, tmp_path: Path) -> None:
    """A dvc add that was killed while it replaced a crop left a version without it, and the old data were deleted."""
    shares = random.Random(3)
    cases = [(kind, shares.random()) for kind in ("import", "dvc")]
    kill_and_check(start, source, dvc_project, tmp_path, cases)


@pytest.mark.usefixtures("uncollected")
def test_the_lock_of_a_killed_dvc_that_nobody_collected_is_free(
    start: Start, source: Path, dvc_project: Path, tmp_path: Path
) -> None:
    """DVC took the zombie for a living process: data is busy, for as long as the container lived."""
    kill_and_check(start, source, dvc_project, tmp_path, [("dvc", 0.9)])


@pytest.mark.stress
@pytest.mark.parametrize("slice_of_ten", range(10))
def test_killed_at_every_step(start: Start, source: Path, dvc_project: Path, tmp_path: Path, slice_of_ten: int) -> None:
    """200 kills in all."""
    cases = [(kind, (index * 10 + slice_of_ten) / 99) for kind in ("import", "dvc") for index in range(10)]
    kill_and_check(start, source, dvc_project, tmp_path, cases)


def test_a_crop_that_dvc_had_taken_away_brings_the_old_data_back(source: Path, dvc_project: Path) -> None:
    """The version without the crop was recorded, and the folder that still held it removed."""
    data = dvc_project / "data"
    import_sources([source], data)
    pointer = (dvc_project / "data.dvc").read_text()
    swap = dvc_project / ".data.swap"
    swap.mkdir()
    (dvc_project / "data.dvc").rename(swap / "pointer")
    data.rename(swap / "before")
    import_sources([write_source(dvc_project.parent / "lab two", per_type=1, seed=7)], dvc_project / "new" / "data")
    (dvc_project / "new" / "data").rename(data)
    victim = next((data / "crops").rglob("*.png"))
    victim.rename(victim.with_name(".AAAAAAAAAAAAAAAAAAAAAA.tmp"))
    record_version(data)
    again = import_sources([source], data)
    assert (again.unchanged, again.total) == (24, 24)
    assert (dvc_project / "data.dvc").read_text() == pointer
