"""The right to change aliases, held by one process at a time on all machines that use a registry."""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

from supcam.errors import SupcamError
from supcam.registry.reach import RegistryError, shown
from supcam.registry.record import parsed, who

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK_SECONDS = 900.0
_HOLDER = "supcam.holder"
_POLL_SECONDS = 0.1


class Busy(SupcamError):
    """Another promotion or rollback holds the lock."""


@contextmanager
def promotion_lock(client: "MlflowClient", uri: str, name: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the registered model ``name``.

    A registered model of a reserved name is the lock, since its creation is atomic in every store.

    Raises:
        Busy: when another process still holds it after ``wait`` seconds.
    """
    lock = _Lock(client, uri, name)
    token = uuid.uuid4().hex
    holder = {"token": token, "pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()}
    holder |= {"who": who(), "since": time.time()}
    broken = lock.acquire(holder, time.monotonic() + wait)
    try:
        yield
    finally:
        # Whoever was slower than LOCK_SECONDS may have lost it to another: only one's own lock is taken away.
        held = lock.holder()
        mine = [lock.name] if held is not None and held["token"] == token else []
        for stale in (*mine, *broken):
            lock.forget(stale)


class _Lock:
    """The registered model that is the lock."""

    def __init__(self, client: "MlflowClient", uri: str, model: str) -> None:
        self.client, self.uri, self.model = client, uri, model
        self.name = f"{model}.promotion-lock"

    def acquire(self, holder: dict[str, Any], deadline: float) -> list[str]:
        """Create the lock, breaking those of dead holders; returns the names that these were put aside under."""
        broken: list[str] = []
        while not self._create(holder):
            current = self.holder()
            if current is not None and _dead(current):
                broken += self._put_aside(current)
            elif time.monotonic() >= deadline:
                raise Busy(f"{_busy(self.model, current)} Wait for it and run again.")
            else:
                time.sleep(_POLL_SECONDS)
        return broken

    def holder(self) -> dict[str, Any] | None:
        """Who holds it; None when nobody does."""
        from mlflow.exceptions import MlflowException

        try:
            return parsed(self.client.get_registered_model(self.name).tags.get(_HOLDER, ""))
        except MlflowException:
            return None

    def forget(self, name: str) -> None:
        """Delete a lock, which may be gone already."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _create(self, holder: dict[str, Any]) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name, tags={_HOLDER: json.dumps(holder)})
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                return False
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                # MLflow met another's lock, looked it up to report it, and found it released meanwhile.
                return self._create(holder)
            raise RegistryError(f"the registry {shown(self.uri)} refused a lock: {error}.") from None
        return True

    def _put_aside(self, current: dict[str, Any]) -> list[str]:
        """Rename a dead holder's lock. Deleting could hit a new one; of several who rename, the store lets one win."""
        from mlflow.exceptions import MlflowException

        aside = f"{self.name}.{current['token']}"
        try:
            self.client.rename_registered_model(self.name, aside)
        except MlflowException:
            return []
        return [aside]


def _busy(model: str, holder: dict[str, Any] | None) -> str:
    if holder is None:
        return f"another promotion of {model} is just starting or ending."
    since = datetime.fromtimestamp(holder["since"], UTC).isoformat(timespec="seconds")
    process = f"process {holder['pid']} of {holder['who']} on {holder['host']}"
    return f"another promotion of {model} is running: {process} since {since}."


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
