"""`dvc repro` and studies of two workers killed at random: python -m tests.registry.pipeline_kills [REPRO] [TUNE].

Prints one JSON object. A killed command is started again until it ends by itself. Then the pipeline is up to date and
has the outputs of a run that nobody killed, its model is in production, and the study has each of its trials once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import psutil
import yaml

from supcam.registry.record import MOVES
from supcam.registry.store import PRODUCTION, Registry
from tests.support.imports import ROOT
from tests.support.project import change_settings, commit, environment, small_project, succeed

TRIALS = 6
STUDY = """
import sys
from pathlib import Path
from supcam.settings import Settings, TuneSettings
from supcam.tuning.study import tune
from tests.tuning.objectives import Marked
from tests.tuning.test_study import NONE
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    settings = Settings(tune=TuneSettings(trials=int(sys.argv[2]), workers=2, prune=False))
    tune(NONE, NONE, settings, storage=f"sqlite:///{folder}/study.db", study_name="study",
         state_dir=folder / "state", objective=Marked(0.15, folder))
"""


def start(command: list[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """A command in a session of its own, so that all of it can be killed."""
    with log.open("ab") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment(PYTHONPATH=str(ROOT)), stdout=said, stderr=said, start_new_session=True
        )


def whole_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with everything that it started, as the end of a container does."""
    os.killpg(process.pid, signal.SIGKILL)


def one_process(process: subprocess.Popen[bytes], rng: np.random.Generator) -> None:
    """Kill the command itself or one of the processes below it; the others find out by themselves."""
    found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found[int(rng.integers(len(found)))].kill()


def until_done(
    begin: Callable[[], subprocess.Popen[bytes]],
    seconds: float,
    budget: int,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Start a command and kill it within ``seconds``, at most ``budget`` times; it ends by itself at last.

    Returns how often it was killed, and its exit code.
    """
    killed = 0
    while True:
        process = begin()
        if killed < budget:
            try:
                process.wait(timeout=float(rng.uniform(0.02, 1.0)) * seconds)
            except subprocess.TimeoutExpired:
                if killed % 2:
                    one_process(process, rng)
                else:
                    whole_group(process)
                killed += 1
                process.wait()
                continue
        code = process.wait()
        if code == 0 or killed >= budget:
            return killed, code


def outputs(project: Path) -> dict[str, Any]:
    """Hash of every output by its path, as dvc.lock has them after a whole run."""
    stages = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def check_project(project: Path) -> None:
    """Assert that nothing but promote would run again, and that the present model is whole and in production."""
    stale = set(json.loads(succeed(project, "dvc", "status", "--json")))
    assert {name for name in stale if not name.startswith("examples/")} <= {"promote"}, stale
    registry = Registry(f"sqlite:///{project}/mlflow.db")
    aliases, events = registry.aliases(), registry.events()
    assert registry.readable(aliases[PRODUCTION]) and registry.readable(aliases["candidate"])
    moves = [event for event in events if event["action"] in MOVES]
    assert moves[-1]["version"] == aliases[PRODUCTION], moves[-1]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    contents = [version.tags["supcam.content"] for version in registry.versions()]
    assert len(contents) == len(set(contents)), "the same model is registered twice"


def repro(folder: Path, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Kill `dvc repro` that many times, of one seed after the other; each is compared with a run of the same seed."""
    project, twin, log = folder / "project", folder / "twin", folder / "repro.log"
    for one in (project, twin):
        small_project(one)
    killed, failures, seed = 0, list[str](), 100
    while killed < count:
        seed += 1
        for one in (project, twin):
            change_settings(one, {"runtime": {"seed": seed}})
        begun = time.monotonic()
        succeed(twin, "dvc", "repro")
        seconds = time.monotonic() - begun
        done, code = until_done(lambda: start(["dvc", "repro"], project, log), seconds, min(8, count - killed), rng)
        killed += done
        try:
            assert code == 0, f"dvc repro ended {code}: {log.read_text(encoding='utf-8')[-500:]}"
            check_project(project)
            # Decisions and the package's date of nothing differ; what training and evaluation make may not.
            differing = {path for path, digest in outputs(twin).items() if outputs(project).get(path) != digest}
            assert not differing, f"other outputs than without kills: {sorted(differing)}"
        except AssertionError as error:
            failures.append(f"seed {seed} after {done} kills: {error}"[:600])
        commit(project, f"seed {seed}")
        commit(twin, f"seed {seed}")
    return {"repro_kills": killed, "failures": failures}


def studies(folder: Path, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Kill studies of two workers that many times; at the end each trial of a study was finished once."""
    killed, failures, number = 0, list[str](), 0
    program = folder / "study.py"
    program.write_text(STUDY, encoding="utf-8")
    seconds = 0.0
    while killed < count:
        number += 1
        own = folder / f"study {number}"
        own.mkdir()
        command = [sys.executable, str(program), str(own), str(TRIALS)]
        if not seconds:
            begun = time.monotonic()
            assert start(command, ROOT, folder / "tune.log").wait() == 0
            seconds = time.monotonic() - begun
            continue
        begin = lambda: start(command, ROOT, folder / "tune.log")  # noqa: E731, B023
        done, code = until_done(begin, seconds, min(5, count - killed), rng)
        killed += done
        found = optuna.load_study(study_name="study", storage=f"sqlite:///{own}/study.db").trials
        slots = sorted(trial.user_attrs["slot"] for trial in found if trial.state.name == "COMPLETE")
        running = sum(trial.state.name == "RUNNING" for trial in found)
        if code or slots != list(range(TRIALS)) or running:
            failures.append(f"study {number} after {done} kills: exit code {code}, trials {slots}, {running} running")
    return {"tune_kills": killed, "failures": failures}


def main() -> int:
    """Kill; prints the counts."""
    repros, tunes = (int(text) for text in [*sys.argv[1:], *("40", "40")[len(sys.argv) - 1 :]])
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as scratch:
        done = [check(Path(scratch), count, rng) for check, count in ((studies, tunes), (repro, repros)) if count]
    failures = [failure for one in done for failure in one.pop("failures")]
    counts = {name: count for one in done for name, count in one.items()}
    print(json.dumps({"cases": repros + tunes, **counts, "failures": failures}))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
