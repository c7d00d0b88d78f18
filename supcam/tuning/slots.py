"""The trials of a study as numbered slots, each decided exactly once by any number of workers and machines.

Optuna supplies the queue, the states and the heartbeat. Its own loop, ``study.optimize``, does not serve: with
``MaxTrialsCallback`` it counts after a trial, when each of n workers may have begun one more; SIGTERM leaves its trial
open; and where the storage fails while a trial is recorded, it raises an UnboundLocalError (5.0).
``RetryFailedTrialCallback`` puts a lost trial behind those that wait, and loses it when its process is killed in
between. Here a slot is handed out under a lock instead.
"""

import contextlib
import os
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from supcam.settings import TUNABLE, Settings, is_whole
from supcam.tuning.objective import Point
from supcam.tuning.storage import exclusive, search_space


def slots_of(trials: list[Any]) -> dict[int, list[Any]]:
    """Attempts by slot, in order."""
    found: dict[int, list[Any]] = {}
    for frozen in trials:
        found.setdefault(int(frozen.user_attrs["slot"]), []).append(frozen)
    return found


def is_decided(frozen: Any) -> bool:
    """Whether an attempt decides its slot: it finished, was pruned, or failed by an error of its own."""
    failed_itself = frozen.state.name == "FAIL" and "error" in frozen.user_attrs
    return bool(failed_itself or frozen.state.name in ("COMPLETE", "PRUNED"))


def decided(study: Any, target: int) -> list[Any]:
    """The attempts that decide a slot below the target, in the order of slots."""
    slots = slots_of(study.get_trials(deepcopy=False))
    found = (next(filter(is_decided, slots.get(slot, [])), None) for slot in range(target))
    return [frozen for frozen in found if frozen is not None]


def claim(study: Any, storage: str, settings: Settings) -> tuple[Any, Point] | None:
    """Take the first slot that is free or whose worker was lost, with its point; None when there is none (now).

    A lost attempt is repeated at the same point. The first slot is the null baseline.
    """
    with exclusive(storage, study.study_name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asking outside of Optuna's own loop
        _give_back_lost(study)
        trials = study.get_trials(deepcopy=False)
        # Left by a worker that was killed between putting it there and taking it: Optuna would hand it out first.
        slot = next((int(frozen.user_attrs["slot"]) for frozen in trials if frozen.state.name == "WAITING"), None)
        if slot is None:
            slots = slots_of(trials)
            slot = next((n for n in range(settings.tune.trials) if all(map(_is_free, slots.get(n, [])))), None)
            if slot is None:
                return None
            study.enqueue_trial(_fixed(slots.get(slot, []), slot, settings), user_attrs={"slot": slot})
        study.sampler = sampler(settings, slot)
        trial = study.ask()
        trial.set_user_attr("owner", f"{_machine()} {os.getpid()}")
        trial.storage.record_heartbeat(trial._trial_id)
        return trial, _point_of(trial, settings)


def _give_back_lost(study: Any) -> None:
    """Fail the running trials that nobody works on; without an error of its own, their slot is free again."""
    import optuna
    from optuna.trial import TrialState

    optuna.storages.fail_stale_trials(study)
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # Without a point its worker was killed while it held the lock, maybe before the first heartbeat, without which
        # Optuna waits forever.
        if "margin" not in frozen.user_attrs or is_lost(frozen.user_attrs["owner"]):
            study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)


def is_lost(owner: str) -> bool:
    """Whether the owner of a running trial is a process of this machine that has ended, or this one.

    At once, where the heartbeat takes a minute: later points depend on a trial's result, and a study whose only worker
    was killed shall sample the points that it would have sampled whole. A worker looks only between its trials: one of
    its own that still runs lost its storage on the way. Where another process has its number, the heartbeat decides.
    """
    machine, _, number = owner.rpartition(" ")
    return machine == _machine() and (int(number) == os.getpid() or not _runs(int(number)))


def _runs(number: int) -> bool:
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    # Machines may share their name, and containers even the boot of their host, but not its process numbers.
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _is_free(frozen: Any) -> bool:
    return frozen.state.is_finished() and not is_decided(frozen)


def _fixed(attempts: list[Any], slot: int, settings: Settings) -> dict[str, float]:
    """The point of an earlier attempt, or of the baseline; else nothing, and the sampler chooses."""
    for frozen in attempts:
        if len(frozen.params) == len(search_space(settings)):
            return dict(frozen.params)
    return _inside(_baseline(settings), settings) if slot == 0 else {}


def _baseline(settings: Settings) -> dict[str, float]:
    """The null point: no margin, everything else as the settings have it."""
    return {name: getattr(settings.pretrain, name) for name in search_space(settings)} | {"margin": 0.0}


def _inside(values: Mapping[str, float], settings: Settings) -> dict[str, float]:
    """The coordinates that lie within the space: Optuna takes no others."""
    space = search_space(settings)
    return {name: value for name, value in values.items() if space[name][0] <= value <= space[name][1]}


def _point_of(trial: Any, settings: Settings) -> Point:
    """The point a trial stands for; the baseline may lie outside of the space and is then not a sample of it."""
    space = search_space(settings)
    values: dict[str, float] = _baseline(settings) if int(trial.user_attrs["slot"]) == 0 else {}
    for name in _inside(values, settings) if values else space:
        values[name] = _suggest(trial, name, *space[name])
    for name, value in values.items():
        trial.set_user_attr(name, value)
    return Point(values.pop("margin"), values.pop("temperature"), values)


def _suggest(trial: Any, name: str, low: float, high: float) -> float:
    if name in TUNABLE and is_whole(name):
        return int(trial.suggest_int(name, int(low), int(high), log=True))
    return float(trial.suggest_float(name, low, high, log=name == "temperature"))


def sampler(settings: Settings, slot: int) -> Any:
    """The sampler of one slot, seeded by it: a resumed study must not draw the points of its first trials again."""
    import numpy as np
    import optuna

    return optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([settings.runtime.seed, slot]).generate_state(1)[0]),
        n_startup_trials=settings.tune.startup_trials,
        multivariate=True,
        warn_independent_sampling=False,
        constant_liar=True,  # so that workers do not all try the same best guess
    )
