"""Promotions and rollbacks killed at random moments, and raced: python -m tests.registry.kills [KILLS] [RACES].

Prints one JSON object. After every kill the registry is as before or done, its record agrees with its alias, the model
in production is readable, and the next command finishes what was left.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from supcam.registry import history
from supcam.registry.record import MOVES
from supcam.registry.registration import register_candidate
from supcam.registry.store import PRODUCTION, Registry
from tests.registry import attacks
from tests.registry.crops import PASSED, go, project_crops

EQUAL = (1, 3)  # versions of which either may take the place of the other


def child(work: Callable[[], object]) -> int:
    """Start work in a process of its own, which has everything imported already; returns its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def done(work: Callable[[], object]) -> int:
    """Do work in a process of its own; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1])


def prepare(folder: Path) -> None:
    """A registry whose versions 1 and 3 are equally good."""
    attacks.prepare(folder)
    uri, project = f"sqlite:///{folder}/project/mlflow.db", folder / "project"
    client = Registry(uri).client
    run = client.create_run(client.get_experiment_by_name("supcam").experiment_id).info.run_id  # type: ignore[union-attr]
    register_candidate(project / "better", run_id=run, tracking_uri=uri, validation=PASSED)


def move(uri: str, target: int, *, back: bool) -> None:
    """Promote a version, or roll back to it."""
    if back:
        history.rollback(Registry(uri), "killed", to=target)
    else:
        go(uri, candidate=target, force="again")


def check(uri: str, allowed: tuple[int, ...], *, once: bool = False) -> None:
    """Assert that the registry is whole, before and after the next command, and was moved ``once`` to its version."""
    registry = Registry(uri)
    seen, events = registry.aliases(), registry.events()
    assert seen[PRODUCTION] in allowed, (seen, allowed)
    assert registry.readable(seen[PRODUCTION])
    moves = [event for event in events if event["action"] in MOVES]
    assert moves[-1]["version"] == seen[PRODUCTION], moves[-1]
    assert not once or moves[-2]["version"] != moves[-1]["version"], moves[-2:]
    with registry.lock(wait=30):
        assert registry.aliases() == seen
    bare = registry.client.get_registered_model("supcam")
    assert {name: int(number) for name, number in bare.aliases.items()} == seen
    assert "supcam.pending" not in bare.tags
    assert [event["number"] for event in registry.events()] == list(range(1, len(events) + 1))


def kill(uri: str, count: int, seed: int) -> dict[str, Any]:
    """Kill that many promotions and rollbacks, each at a random moment of its work."""
    rng, losses, killed, moved = np.random.default_rng(seed), [], 0, 0
    current = EQUAL[0]
    needed = []
    for back in (False, True):
        start, other = time.monotonic(), EQUAL[1] if current == EQUAL[0] else EQUAL[0]
        assert done(lambda: move(uri, other, back=back)) == 0  # noqa: B023 - it runs at once
        needed.append(time.monotonic() - start)
        current = other
    for number in range(count):
        other, back = EQUAL[1] if current == EQUAL[0] else EQUAL[0], bool(number % 2)
        pid = child(lambda: move(uri, other, back=back))  # noqa: B023
        time.sleep(float(rng.uniform(0, 1.1 * needed[back])))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        found = [one for one in (current, other) if done(lambda: check(uri, (one,))) == 0]  # noqa: B023
        if len(found) != 1:
            losses.append(f"kill {number}: {'rollback' if back else 'promote'} of {other}: the registry is not whole")
            continue
        moved += found[0] == other
        current = found[0]
    return {"kills": killed, "moved": moved, "losses": losses, "current": current}


def race(uri: str, current: int, count: int) -> dict[str, Any]:
    """That many times a promotion and a rollback to the other version at once: exactly one of them moves production."""
    context = multiprocessing.get_context("fork")
    wrong: list[str] = []
    for number in range(count):
        other, start = EQUAL[1] if current == EQUAL[0] else EQUAL[0], context.Barrier(2)
        pids = [child(lambda: (start.wait(), move(uri, other, back=back))) for back in (False, True)]  # noqa: B023
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if 0 not in codes or done(lambda: check(uri, (other,), once=True)) != 0:  # noqa: B023
            wrong.append(f"race {number}: exit codes {codes}")
        current = other
    return {"races": count, "wrong": wrong}


def main() -> int:
    """Kill and race; prints the counts."""
    kills, races = (int(text) for text in [*sys.argv[1:], *("200", "50")[len(sys.argv) - 1 :]])
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project_crops()  # once for all processes
        assert done(lambda: prepare(folder)) == 0
        uri = f"sqlite:///{folder}/project/mlflow.db"
        killed = kill(uri, kills, 0)
        raced = race(uri, killed.pop("current"), races)
    failures = killed.pop("losses") + raced.pop("wrong")
    print(json.dumps({"cases": kills + races, **killed, **raced, "failures": failures}))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
