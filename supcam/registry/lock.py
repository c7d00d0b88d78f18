"""The right to change aliases, held by one process at a time on all machines that use a registry."""

import contextlib
import hashlib
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from supcam.errors import SupcamError
from supcam.registry.reach import RegistryError
from supcam.registry.record import parsed, who
from supcam.tracking import shown

LOCK_SECONDS = 900.0  # how long a holder on another machine may be silent
BEAT_SECONDS = 5.0  # a holder says this often that it still lives
_HOLDER = "supcam.holder"
_POLL_SECONDS = 0.1
_PATIENCE = 4  # beats that a holder of another machine may leave out before it is taken for dead
_CLOCK_TICKS = 200  # two seconds: the time of boot that the system gives may differ by one from call to call


class Busy(SupcamError):
    """Another promotion or rollback holds the lock."""


@contextmanager
def promotion_lock(client: MlflowClient, uri: str, model: str, wait: float = 0.0) -> Iterator[Callable[[], None]]:
    """Hold the lock of a registered model.

    A registered model of a reserved name is the lock, since its creation is atomic in every store. A lock is taken over
    only from a holder that is dead. Busy when another process still holds it after ``wait`` seconds.

    Yields a function that raises Busy when the lock was lost meanwhile: call it before what must not happen twice.
    """
    name, token = f"{model}.promotion-lock", uuid.uuid4().hex
    holder = {"token": token, "pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()}
    holder |= {"machine": uuid.getnode(), "who": who(), "since": time.time(), "beat": 0}
    deadline, aside = time.monotonic() + wait, []
    while not _create(client, uri, name, holder):
        current = _holder(client, name)
        if current is not None and _dead(client, name, current):
            aside += (put := _put_aside(client, name, current))
            if put or _holder(client, name) != current:
                continue
        if time.monotonic() >= deadline:
            raise Busy(f"another promotion of {model} is {_doing(current)}. Wait for it and run again.")
        else:
            time.sleep(_POLL_SECONDS)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(client, name, holder, ended), daemon=True, name="promotion-lock")
    beats.start()

    def check() -> None:
        held = _holder(client, name)
        if held is None or held["token"] != token:
            raise Busy(f"the lock of {model} was taken over, as this machine was silent. Nothing was moved; run again.")

    try:
        yield check
    finally:
        ended.set()
        beats.join()
        # Whoever was silent for too long may have lost it to another: only one's own lock is taken away.
        held = _holder(client, name)
        for over in [name, *aside] if held is not None and held["token"] == token else aside:
            _delete(client, over)


def _beat(client: MlflowClient, name: str, holder: dict[str, Any], ended: threading.Event) -> None:
    """Count up in the lock until it is given back: on another machine that is the only sign of life."""
    for beat in itertools.count(1):
        if ended.wait(BEAT_SECONDS):
            return
        # A store that is away for a moment costs a beat and no more.
        with contextlib.suppress(MlflowException, SupcamError):
            held = _holder(client, name)
            if held is None or held["token"] != holder["token"]:
                return
            alive = json.dumps({**holder, "since": time.time(), "beat": beat})
            client.set_registered_model_tag(name, _HOLDER, alive)


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
    """Who holds the lock; None when it is free. What somebody damaged names no host."""
    try:
        found = client.get_registered_model(name)
    except MlflowException:
        return None
    text = found.tags.get(_HOLDER, "")
    values = parsed(text) or {}
    kinds: dict[str, Any] = {"token": str, "pid": int, "started": str, "host": str, "who": str, "since": (int, float)}
    sound = all(isinstance(values.get(key), kind) for key, kind in kinds.items())
    return values if sound else {"token": hashlib.sha256(text.encode()).hexdigest()[:32], "host": ""}


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
    if holder is None or not holder["host"]:
        return "just starting or ending"
    return f"running: process {holder['pid']} of {holder['who']} on {holder['host']}"


def _dead(client: MlflowClient, name: str, holder: dict[str, Any]) -> bool:
    """Whether a holder is gone: its process on this machine ended, or it fell silent on another."""
    if not holder["host"]:
        return True  # no process of ours writes such a lock
    if holder["host"] == socket.gethostname() and holder.get("machine", uuid.getnode()) == uuid.getnode():
        return not _lives(holder["pid"], holder["started"])
    if abs(time.time() - holder["since"]) <= LOCK_SECONDS:
        return False
    # The clocks of two machines may differ, so the date alone says little: a living holder counts up meanwhile.
    time.sleep(_PATIENCE * BEAT_SECONDS)
    return _holder(client, name) == holder


def _lives(pid: int, started: str) -> bool:
    """Whether the process that began at ``started`` still runs; a later one of its number began later."""
    now = _started(pid)
    # Earlier versions wrote "alive" where there is no /proc: then the number of the process must do.
    if not now or started == "alive":
        return bool(now)
    return started.isdecimal() and abs(int(now) - int(started)) <= _CLOCK_TICKS


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot; "" if it is gone.

    Ticks since boot, unlike the time of day that psutil gives, stay the same when the clock is set: from 7.1 on it
    computes that from the present time of boot.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        since_boot = process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return ""
    return str(round(since_boot * os.sysconf("SC_CLK_TCK")))
