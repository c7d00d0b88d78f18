"""Several real processes on one study: exact numbers, kills, resuming; on sqlite and on PostgreSQL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
import sqlalchemy

from supcam.errors import SupcamError
from supcam.settings import Settings, TuneSettings
from supcam.tuning.objective import Objective
from supcam.tuning.result import TuneResult
from supcam.tuning.slots import is_lost
from supcam.tuning.study import tune
from tests.tuning.objectives import KillsItself, Marked
from tests.tuning.test_study import NONE


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path}/study.db"


def study(storage: str, folder: Path, objective: Objective, trials: int, workers: int) -> TuneResult:
    settings = Settings(tune=TuneSettings(trials=trials, workers=workers, prune=False))
    return tune(
        NONE, NONE, settings, storage=storage, study_name=folder.name, state_dir=folder / "state", objective=objective
    )


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.stress
def test_workers_share_the_trials_exactly(storage: str, tmp_path: Path) -> None:
    result = study(storage, tmp_path, Marked(0.15, tmp_path), trials=6, workers=2)
    started = lines(tmp_path / "started")
    assert len(started) == len(lines(tmp_path / "ended")) == len(result.study.trials) == 6
    assert len({process for process, *_ in started}) > 1
    assert len({tuple(point) for _, *point in started}) == 6
    assert (result.trials["state"] == "finished").all()


def test_a_killed_worker_is_replaced_and_its_trial_repeated_once(storage: str, tmp_path: Path) -> None:
    result = study(storage, tmp_path, KillsItself(0.02, tmp_path, times=2), trials=5, workers=2)
    assert (result.trials["state"] == "finished").all() and len(result.trials) == 5
    attempts = [trial.state.name for trial in result.study.trials]
    assert sorted(attempts) == ["COMPLETE"] * 5 + ["FAIL"] * 2
    slots = [t.user_attrs["slot"] for t in result.study.trials if t.state.name == "COMPLETE"]
    assert sorted(slots) == list(range(5))
    again = study(storage, tmp_path, KillsItself(0.02, tmp_path, times=2), trials=5, workers=2)
    assert len(again.study.trials) == 7


@pytest.mark.stress
def test_workers_that_always_die_end_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(SupcamError, match=r"workers of the study were killed \d+ times"):
        study(f"sqlite:///{tmp_path}/study.db", tmp_path, KillsItself(0.0, tmp_path, times=99), trials=2, workers=2)


PROGRAM = """
import sys
from pathlib import Path
from tests.tuning.test_workers import study
from tests.tuning.objectives import Marked
if __name__ == "__main__":
    storage, folder, trials, workers, pause = sys.argv[1:]
    study(storage, Path(folder), Marked(float(pause), Path(folder)), int(trials), int(workers))
"""


def start(storage: str, folder: Path, trials: int, workers: int, pause: float = 0.15) -> subprocess.Popen[bytes]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(program), storage, str(folder), str(trials), str(workers), str(pause)]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


def wait_for(path: Path, count: int) -> None:
    until = time.monotonic() + 300
    while len(lines(path)) < count:
        assert time.monotonic() < until, f"{path} has {len(lines(path))} of {count} lines"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.stress),
        pytest.param(signal.SIGINT, marks=pytest.mark.stress),
    ],
)
def test_a_killed_study_resumes_without_repeating_finished_trials(
    storage: str, tmp_path: Path, how: signal.Signals
) -> None:
    process = start(storage, tmp_path, 6, 2)
    wait_for(tmp_path / "ended", 2)
    process.send_signal(how)
    process.wait(timeout=120)
    before = len(lines(tmp_path / "started"))
    result = study(storage, tmp_path, Marked(0.0, tmp_path), trials=6, workers=2)
    assert len(result.trials) == 6 and (result.trials["state"] == "finished").all()
    attempts = result.study.trials
    complete = [trial.user_attrs["slot"] for trial in attempts if trial.state.name == "COMPLETE"]
    assert sorted(complete) == list(range(6))
    # Only what was not finished before the kill, at most one trial a worker, was started again.
    again = [trial for trial in attempts if trial.state.name == "FAIL"]
    assert len(again) <= 2 and all("error" not in trial.user_attrs for trial in again)
    assert before >= 2 and len(lines(tmp_path / "started")) <= 6 + len(again)


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """They trained on until their next report."""
    storage = f"sqlite:///{tmp_path}/study.db"
    process = start(storage, tmp_path, 6, 2, pause=600)
    wait_for(tmp_path / "started", 2)
    workers = [psutil.Process(int(number)) for number, *_ in lines(tmp_path / "started")]
    process.kill()
    process.wait(timeout=120)
    assert psutil.wait_procs(workers, timeout=120)[1] == []
    trials = optuna.load_study(study_name=tmp_path.name, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL"]
    assert len(study(storage, tmp_path, Marked(0.0, tmp_path), trials=3, workers=1).trials) == 3


def test_a_trial_of_a_lost_machine_is_repeated_at_the_same_point_when_its_heartbeat_is_old(
    storage: str, tmp_path: Path
) -> None:
    process = start(storage, tmp_path, 4, 1)
    wait_for(tmp_path / "started", 2)
    process.kill()
    process.wait(timeout=120)
    left = optuna.load_study(study_name=tmp_path.name, storage=storage)
    (lost,) = [trial for trial in left.trials if trial.state.name == "RUNNING"]
    left._storage.set_trial_user_attr(lost._trial_id, "owner", f"another machine {os.getpid()}")
    assert not is_lost(left.trials[lost.number].user_attrs["owner"])
    with sqlalchemy.create_engine(storage).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'"))
    result = study(storage, tmp_path, Marked(0.0, tmp_path), trials=4, workers=1)
    trials = result.study.trials
    assert sorted(trial.user_attrs["slot"] for trial in trials if trial.state.name == "COMPLETE") == [0, 1, 2, 3]
    assert [trial.number for trial in trials if trial.state.name == "FAIL"] == [lost.number]
    (again,) = [t for t in trials if t.user_attrs["slot"] == lost.user_attrs["slot"] and t.number != lost.number]
    assert again.params == lost.params
    # The same bytes as of a study that lost nothing: its pictures do not count the attempts.
    (tmp_path / "whole").mkdir()
    whole = study(f"sqlite:///{tmp_path}/whole.db", tmp_path / "whole", Marked(0.0, tmp_path), trials=4, workers=1)
    for one, out in ((result, "resumed"), (whole, "whole")):
        one.write(tmp_path / out / "out")
    for path in (tmp_path / "whole" / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "resumed" / "out" / path.name).read_bytes(), path.name


@pytest.mark.stress
def test_two_machines_on_one_storage_hold_the_number_together(storage: str, tmp_path: Path) -> None:
    both = [start(storage, tmp_path, 7, 2) for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    assert len(lines(tmp_path / "started")) == len(lines(tmp_path / "ended")) == 7
    assert len({tuple(point) for _, *point in lines(tmp_path / "ended")}) == 7
