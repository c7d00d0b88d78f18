"""Cheap objectives with a known optimum, importable by worker processes."""

import os
import signal
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import optuna

from supcam.errors import UsageError
from supcam.tuning.objective import Point, Watch


@dataclass(frozen=True)
class Bowl:
    """Best at margin 0.4, temperature 0.1; four reports that rise to the value, each after ``pause`` seconds."""

    pause: float = 0.0

    def __call__(self, point: Point, watch: Watch) -> float:
        value = 0.9 - (point.margin - 0.4) ** 2 - 5 * (point.temperature - 0.1) ** 2
        for step in range(1, 5):
            time.sleep(self.pause)
            watch.log({"loss": 1 / step}, step)
            watch.report(value * step / 4)
        return value


@dataclass(frozen=True)
class Marked(Bowl):
    """Leaves one line with process and point in ``folder`` at start and one at the end."""

    folder: Path = Path()

    def __call__(self, point: Point, watch: Watch) -> float:
        self._mark("started", point)
        value = super().__call__(point, watch)
        self._mark("ended", point)
        return value

    def _mark(self, what: str, point: Point) -> None:
        with (self.folder / what).open("a") as file:
            file.write(f"{os.getpid()} {point.margin:.6f} {point.temperature:.6f}\n")


@dataclass(frozen=True)
class Narrow(Bowl):
    """Better with a queue near 256 as well."""

    def __call__(self, point: Point, watch: Watch) -> float:
        return super().__call__(point, watch) - abs(point.others["queue_size"] - 256) / 10_000


@dataclass(frozen=True)
class Faulty(Bowl):
    """Fails for every point but the baseline."""

    def __call__(self, point: Point, watch: Watch) -> float:
        if point.margin > 0:
            raise RuntimeError("out of memory\nat some line")
        return super().__call__(point, watch)


@dataclass(frozen=True)
class SometimesFaulty(Bowl):
    """Fails at the first random point."""

    def __call__(self, point: Point, watch: Watch) -> float:
        if watch.state_dir.name == "trial_1":
            raise RuntimeError("out of memory")
        return super().__call__(point, watch)


@dataclass(frozen=True)
class LocksStorage(Bowl):
    """Locks the sqlite file of its study in the middle of the second trial, and leaves it locked."""

    file: Path = Path()

    def __call__(self, point: Point, watch: Watch) -> float:
        if point.margin > 0 and not HELD:
            HELD.append(sqlite3.connect(self.file, isolation_level=None))
            HELD[0].execute("BEGIN EXCLUSIVE")
        return super().__call__(point, watch)


@dataclass(frozen=True)
class TakenOver(Bowl):
    """Fails the second trial in the storage, as a worker does that finds its heartbeat too old, and goes on with it."""

    storage: str = ""

    def __call__(self, point: Point, watch: Watch) -> float:
        study = optuna.load_study(study_name="study", storage=self.storage)
        if len(study.trials) == 2:
            study.tell(1, state=optuna.trial.TrialState.FAIL)
        return super().__call__(point, watch)


HELD: list[sqlite3.Connection] = []


def wrong_use(point: Point, watch: Watch) -> float:
    raise UsageError(f"pretrain.batch_size is larger than the data at margin {point.margin}")


def no_number(point: Point, watch: Watch) -> float:
    return float("nan")


@dataclass(frozen=True)
class KillsItself(Bowl):
    """Kills its own process once per marker file that is missing, in the middle of the trial."""

    folder: Path = Path()
    times: int = 1

    def __call__(self, point: Point, watch: Watch) -> float:
        watch.report(0.5)
        for number in range(self.times):
            marker = self.folder / f"killed {number}"
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(point, watch)
