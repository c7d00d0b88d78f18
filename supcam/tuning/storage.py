"""The storage of a study: opened, locked for one process at a time, and named where it fails."""

import contextlib
import json
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from supcam.errors import SettingError, SupcamError
from supcam.settings import Settings

HEARTBEAT = 10  # seconds
GRACE = 60  # seconds without heartbeat after which a trial counts as lost
PATIENCE = 60  # seconds to wait for an sqlite file that someone else has locked


class StorageLost(SupcamError):
    """The storage of a study cannot be used (any more); what it did not record is repeated from its checkpoints."""


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
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

    Args:
        storage: SQLAlchemy address.
        name: Name of the study.
        settings: All settings; ``tune`` gives the search space and the pruning.
        key: Hash of all that determines a trial.

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
        with storage_errors(storage), exclusive(storage, name), warnings.catch_warnings():
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
            if "space" not in study.user_attrs and not study.get_trials(deepcopy=False):
                study.set_user_attr("key", key)
                study.set_user_attr("space", _space_text(settings))
            _check_same(study, _space_text(settings), key)
    except SupcamError:
        raise
    except Exception as error:
        # A driver that is not installed, an address that is not one.
        raise StorageLost(f"tune.storage {_shown(storage)} cannot be used: {error}. Correct tune.storage.") from error
    return study


def _check_same(study: Any, space: str, key: str) -> None:
    known, made_of = study.user_attrs.get("space"), study.user_attrs.get("key")
    if known != space:
        has = f"has {known}" if known else "holds trials of another program"
        allowed = f"a study with the space {space}; this one {has}"
    else:
        allowed = f"a study of these crops, code and settings ({key}); this one is of others ({made_of})"
    if (known, made_of) != (space, key):
        raise SettingError("tune.study", study.study_name, allowed, "Choose another name.")


def search_space(settings: Settings) -> dict[str, list[float]]:
    """Lower and upper bound by name, of settings of the section ``pretrain``."""
    chosen = settings.tune
    further = {name: list(bounds) for name, bounds in chosen.space.items()}
    return {"margin": list(chosen.margin), "temperature": list(chosen.temperature), **further}


def _space_text(settings: Settings) -> str:
    return json.dumps(search_space(settings), sort_keys=True)


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
    """Hold the right to make a study and to hand out its trials; a process that dies gives it back.

    Raises:
        SettingError: for a storage that has no lock which ends with its holder.
    """
    if storage.startswith("sqlite:///") and ":memory:" not in storage:
        with FileLock(storage.removeprefix("sqlite:///") + ".lock"):
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
