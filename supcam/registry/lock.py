"""The right to change aliases, held by one process at a time on all machines that use a registry."""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from supcam.errors import SupcamError
from supcam.registry.reach import RegistryError, shown
from supcam.registry.record import parsed, who

LOCK_SECONDS = 900.0
_HOLDER = "supcam.holder"
_POLL_SECONDS = 0.1


class Busy(SupcamError):
    """Another promotion or rollback holds the lock."""


@contextmanager
def promotion_lock(client: MlflowClient, uri: str, model: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a registered model.

    A registered model of a reserved name is the lock, since its creation is atomic in every store. Busy when another
    process still holds it after ``wait`` seconds.
    """
    name, token = f"{model}.promotion-lock", uuid.uuid4().hex
    holder = {"token": token, "pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()}
    holder |= {"who": who(), "since": time.time()}
    deadline, aside = time.monotonic() + wait, []
    while not _create(client, uri, name, holder):
        current = _holder(client, name)
        if current is not None and _dead(current):
            aside += _put_aside(client, name, current)
        elif time.monotonic() >= deadline:
            raise Busy(f"another promotion of {model} is {_doing(current)}. Wait for it and run again.")
        else:
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        # Whoever was slower than LOCK_SECONDS may have lost it to another: only one's own lock is taken away.
        held = _holder(client, name)
        for ended in [name, *aside] if held is not None and held["token"] == token else aside:
            _delete(client, ended)


def _create(client: MlflowClient, uri: str, name: str, holder: dict[str, Any]) -> bool:
    try:
        client.create_registered_model(name, tags={_HOLDER: json.dumps(holder)})
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            return False
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            # MLflow met another's lock, looked it up to report it, and found it released meanwhile.
            return _create(client, uri, name, holder)
        raise RegistryError(f"the registry {shown(uri)} refused a lock: {error}.") from None
    return True


def _holder(client: MlflowClient, name: str) -> dict[str, Any] | None:
    try:
        return parsed(client.get_registered_model(name).tags.get(_HOLDER, ""))
    except MlflowException:
        return None


def _put_aside(client: MlflowClient, name: str, current: dict[str, Any]) -> list[str]:
    """Rename a dead holder's lock. Deleting could hit a new one; of several who rename, the store lets one win."""
    aside = f"{name}.{current['token']}"
    try:
        client.rename_registered_model(name, aside)
    except MlflowException:
        return []
    return [aside]


def _delete(client: MlflowClient, name: str) -> None:
    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _doing(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "just starting or ending"
    since = datetime.fromtimestamp(holder["since"], UTC).isoformat(timespec="seconds")
    return f"running: process {holder['pid']} of {holder['who']} on {holder['host']} since {since}"


def _dead(holder: dict[str, Any]) -> bool:
    """Whether a holder is gone: its process on this host ended, or its time is over."""
    if time.time() - holder["since"] > LOCK_SECONDS:
        return True
    if holder["host"] != socket.gethostname():
        return False
    started = _started(holder["pid"])
    # Earlier versions wrote "alive" where there is no /proc: then the number of the process must do.
    return not started or holder["started"] not in (started, "alive")


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot: a later one of its number began later. "" if it is gone.

    Seconds since boot, unlike the time of day that psutil gives, stay the same when the clock is set.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        since_boot = process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return ""
    return str(round(since_boot * os.sysconf("SC_CLK_TCK")))
