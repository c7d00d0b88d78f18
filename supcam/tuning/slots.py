"""The trials of a study as numbered slots, each done exactly once by any number of workers and machines."""

import contextlib
import json
import os
import platform
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supcam.errors import SettingError, SupcamError
from supcam.settings import TUNABLE, Settings, is_whole
from supcam.tuning.objective import Point

HEARTBEAT = 10  # seconds
GRACE = 60  # seconds without heartbeat after which a trial of another machine counts as lost
PATIENCE = 60  # seconds to wait for an sqlite file that someone else has locked


class StorageLost(SupcamError):
    """The storage of a study cannot be used (any more); what was not told to it is repeated from its checkpoints."""


@contextmanager
def answering(storage: str) -> Iterator[None]:
    """Name the storage where it fails in the block, instead of a traceback of its driver.

    Raises:
        StorageLost: when the storage is locked, gone or unreachable.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        raise StorageLost(
            f"tune.storage {_shown(storage)} cannot be used: {cause}. Its trials are kept. "
            "Start or unlock it, or correct tune.storage (empty: a file in state/), and run again to go on."
        ) from error


def open_study(storage: str, name: str, settings: Settings, key: str) -> Any:
    """Open a study, making it and its tables when they are missing.

    Raises:
        SettingError: when a study of that name has another search space, or another key: trials of other crops, code or
            settings never decide.
        StorageLost: when the storage cannot be reached or is locked.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        # Two processes that make the tables of a new database at once break each other.
        with answering(storage), exclusive(storage, name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            database = optuna.storages.RDBStorage(
                storage,
                engine_kwargs=_engine(storage) | {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
            )
            study = optuna.create_study(
                study_name=name,
                storage=database,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(settings),
            )
            space = json.dumps(search_space(settings), sort_keys=True)
            known = study.user_attrs.get("space")
            if known is None and not study.get_trials(deepcopy=False):
                study.set_user_attr("key", key)
                study.set_user_attr("space", known := space)
    except SupcamError:
        raise
    except Exception as error:
        # A driver that is not installed, an address that is none.
        raise StorageLost(f"tune.storage {_shown(storage)} cannot be used: {error}. Correct tune.storage.") from error
    if known != space:
        has = f"has {known}" if known else "holds trials of another program"
        raise SettingError(
            "tune.study", name, f"a study with the space {space}; this one {has}", "Choose another name."
        )
    made_of = study.user_attrs.get("key")
    if made_of != key:
        allowed = f"a study of these crops, code and settings ({key}); this one is of others ({made_of})"
        raise SettingError("tune.study", name, allowed, "Choose another name.")
    return study


def search_space(settings: Settings) -> dict[str, list[float]]:
    """Lower and upper bound by name, of settings of the section ``pretrain``."""
    chosen = settings.tune
    further = {name: list(bounds) for name, bounds in chosen.space.items()}
    return {"margin": list(chosen.margin), "temperature": list(chosen.temperature), **further}


def _pruner(settings: Settings) -> Any:
    import optuna

    # Median, not Hyperband: a trial has so few epochs that the brackets of Hyperband would hold a trial or two each.
    if not settings.tune.prune:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=settings.tune.startup_trials)


def _engine(storage: str) -> dict[str, Any]:
    if storage.startswith("sqlite"):
        return {"connect_args": {"timeout": PATIENCE}}
    # libpq would wait for minutes for a host that swallows packets.
    libpq = storage.startswith(("postgresql:", "postgresql+psycopg"))
    return {"connect_args": {"connect_timeout": 10}} if libpq else {}


def _shown(storage: str) -> str:
    """A storage address without its password."""
    from sqlalchemy import make_url

    with contextlib.suppress(Exception):
        return str(make_url(storage))
    return storage.rpartition("@")[2]


@contextmanager
def exclusive(storage: str, name: str) -> Iterator[None]:
    """Hold the right to hand out trials of a study; a worker that dies gives it back."""
    if storage.startswith("sqlite:///") and ":memory:" not in storage:
        import fcntl

        with Path(storage.removeprefix("sqlite:///") + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    import sqlalchemy

    number = zlib.crc32(name.encode())
    take = {"postgresql": f"SELECT pg_advisory_lock({number})", "mysql": f"SELECT GET_LOCK('{number}', -1)"}
    free = {"postgresql": f"SELECT pg_advisory_unlock({number})", "mysql": f"SELECT RELEASE_LOCK('{number}')"}
    engine = sqlalchemy.create_engine(storage, poolclass=sqlalchemy.NullPool, **_engine(storage))
    if engine.dialect.name not in take:
        raise SettingError("tune.storage", _shown(storage), "an address of sqlite (a file), postgresql or mysql")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(take[engine.dialect.name]))
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text(free[engine.dialect.name]))


def owner() -> str:
    """This process, told apart from a later one with the same number, on a machine told apart from others."""
    return json.dumps([_machine(), os.getpid(), _started(os.getpid())])


def _machine() -> str:
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id",):
        with contextlib.suppress(OSError):
            parts.append(Path(path).read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _started(process: int) -> str | None:
    """When a process of this machine started; None when there is none (or it is dead and not yet collected)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_lost(frozen: Any) -> bool:
    """Whether a running trial belongs to a process of this machine that is no more, or to this one.

    A worker looks only between its trials: one of its own that still runs lost its storage on the way.
    """
    machine, process, started = json.loads(frozen.user_attrs.get("owner", '["", 0, ""]'))
    return bool(machine == _machine() and (process == os.getpid() or _started(process) != started))


def slots_of(trials: list[Any]) -> dict[int, list[Any]]:
    """Attempts by slot, in order."""
    found: dict[int, list[Any]] = {}
    for frozen in trials:
        found.setdefault(int(frozen.user_attrs["slot"]), []).append(frozen)
    return found


def result_of(attempts: list[Any]) -> Any | None:
    """The attempt that decides a slot (finished, pruned or failed by its own error); None while there is none."""
    from optuna.trial import TrialState

    for frozen in attempts:
        failed = frozen.state == TrialState.FAIL and "error" in frozen.user_attrs
        if failed or frozen.state in (TrialState.COMPLETE, TrialState.PRUNED):
            return frozen
    return None


def unfinished(study: Any, target: int) -> list[int]:
    """Slots below the target that no attempt has decided."""
    slots = slots_of(study.get_trials(deepcopy=False))
    return [slot for slot in range(target) if result_of(slots.get(slot, [])) is None]


def claim(study: Any, storage: str, settings: Settings, on_lost: Any = None) -> Any | None:
    """Take the first slot that is free or whose worker was lost; None when there is nothing to take (now).

    A lost attempt is repeated at the same point. The first slot is the null baseline.
    """

    with exclusive(storage, study.study_name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fail_lost(study, on_lost)
        slots = slots_of(study.get_trials(deepcopy=False))
        waiting = [frozen for attempts in slots.values() for frozen in attempts if frozen.state.name == "WAITING"]
        if waiting:
            slot = int(waiting[0].user_attrs["slot"])
        else:
            free = _first_free(slots, settings.tune.trials)
            if free is None:
                return None
            slot = free
            attrs = {"slot": slot, "owner": owner()}
            study.enqueue_trial(_fixed(slots.get(slot, []), slot, settings), user_attrs=attrs)
        study.sampler = sampler(settings, slot)
        trial = study.ask()
        trial.set_user_attr("owner", owner())
        trial.storage.record_heartbeat(trial._trial_id)
    return trial


def _first_free(slots: Mapping[int, list[Any]], target: int) -> int | None:
    for slot in range(target):
        attempts = slots.get(slot, [])
        if result_of(attempts) is None and not any(frozen.state.name == "RUNNING" for frozen in attempts):
            return slot
    return None


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


def point_of(trial: Any, settings: Settings) -> Point:
    """The point a claimed trial stands for; the baseline may lie outside of the space and then is no sample of it."""
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
        constant_liar=True,
    )


def _fail_lost(study: Any, on_lost: Any) -> None:
    import optuna
    from optuna.trial import TrialState

    before = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]
    optuna.storages.fail_stale_trials(study)
    for frozen in before:
        if is_lost(frozen):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
    if on_lost is not None:
        now = {frozen.number: frozen for frozen in study.get_trials(deepcopy=False)}
        for frozen in before:
            if now[frozen.number].state == TrialState.FAIL:
                on_lost(now[frozen.number])
