"""A registered model in an MLflow registry: its versions, aliases, append-only record, and the lock of promotions.

Everything goes through one explicit client; no global MLflow state is read or changed.
"""

import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from supcam.errors import SupcamError, UsageError
from supcam.registry.page import decision_page

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PRODUCTION = "production"
PREVIOUS = "previous"
CANDIDATE = "candidate"
ALIASES = (PRODUCTION, PREVIOUS, CANDIDATE)
CONTENT_TAG = "supcam.content"
DATA_TAG = "supcam.data"
CODE_TAG = "supcam.code"
SHIPPED_TAG = "supcam.shipped"  # hash of the code that travels with the model
RUN_TAG = "supcam.run"  # the run of `mlflow run .` above the one that registered the version
VALIDATION_TAG = "supcam.data.validation"
FIGURE_TAG = "supcam.validation."
DECISION_TAG = "supcam.decision"
REASON_TAG = "supcam.decision.reason"

_EVENT = "supcam.event."
_WHOLE = "supcam.decision."  # and the number of the event, on its version
_REASON_LENGTH = 2000
_PENDING = "supcam.pending"
_HOLDER = "supcam.holder"
LOCK_SECONDS = 900.0

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_REACH_SECONDS = 5.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_POLL_SECONDS = 0.1


class RegistryError(SupcamError):
    """The registry cannot be reached, or does not hold what was asked for."""


class Busy(SupcamError):
    """Another promotion or rollback holds the lock."""


@dataclass(frozen=True)
class Version:
    """One registered model version: its number, run, tags and when it was registered (UTC)."""

    number: int
    run_id: str
    tags: dict[str, str]
    created: datetime


class Registry:
    """The versions, aliases and record of one registered model.

    Attributes:
        uri: tracking and registry address.
        name: name of the registered model.
        client: the explicit MLflow client.
    """

    def __init__(self, uri: str, name: str = "supcam", *, create: bool = False) -> None:
        """Open the registry; only ``create`` may make a new database.

        Raises:
            RegistryError: when there is no database at ``uri``, or the server does not answer.
        """
        self.uri = uri
        self.name = name
        self.client = open_client(uri, create=create)

    def tags(self) -> dict[str, str]:
        """Tags of the registered model; empty when nothing was registered yet."""
        found = self._registered()
        return dict(found.tags) if found is not None else {}

    def aliases(self) -> dict[str, int]:
        """Version by alias, a promotion that was interrupted after its decisive step counted as done."""
        found = self._registered()
        if found is None:
            return {}
        aliases = {name: int(number) for name, number in found.aliases.items()}
        pending = _parse(found.tags.get(_PENDING, ""))
        if pending and aliases.get(PRODUCTION) == pending["to"] and pending["from"] is not None:
            aliases[PREVIOUS] = pending["from"]
        return aliases

    def version(self, number: int) -> Version:
        """One version by its number.

        Raises:
            RegistryError: when there is no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version(self.name, str(number)))
        except MlflowException:
            known = ", ".join(str(item.number) for item in self.versions()) or "none"
            raise RegistryError(f"model {self.name} has no version {number}; registered are {known}.") from None

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        found: list[Version] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name = '{self.name}'", max_results=200, page_token=token)
            found += [_version(item) for item in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda item: -item.number)

    def resolve(self, which: str | int) -> Version:
        """A version by alias or number.

        Raises:
            RegistryError: when there is no model, no such alias or no such version.
        """
        if str(which).isdigit():
            return self.version(int(which))
        aliases = self.aliases()
        if str(which) in aliases:
            return self.version(aliases[str(which)])
        if which == PRODUCTION:
            raise RegistryError(
                f"no model {self.name} is in production yet in {shown(self.uri)}. "
                "Run: dvc repro, or: supcam promote. Another registry: set MLFLOW_TRACKING_URI."
            )
        known = ", ".join(f"{name} (version {number})" for name, number in sorted(aliases.items())) or "none"
        raise RegistryError(f"model {self.name} has no alias {str(which)!r} in {shown(self.uri)}; it has {known}.")

    def by_content(self, content: str) -> Version | None:
        """The version that holds this very content, the oldest when there are several."""
        return next((item for item in reversed(self.versions()) if item.tags.get(CONTENT_TAG) == content), None)

    def package(self, version: Version, into: Path | None = None) -> Path:
        """Folder of the version's package; a local store is read in place unless ``into`` is given.

        Raises:
            RegistryError: when the files cannot be fetched.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        source = self.client.get_model_version_download_uri(self.name, str(version.number))
        try:
            if source.startswith("runs:/"):
                run_id, _, path = source.removeprefix("runs:/").partition("/")
                base = self.client.get_run(run_id).info.artifact_uri
                source = f"{base}/{path}"
            local = download_artifacts(
                artifact_uri=source, dst_path=None if into is None else str(into), tracking_uri=self.uri
            )
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"the files of {self.name} version {version.number} cannot be fetched from {source}: {error}. "
                "Check the artifact store, or register the model again."
            ) from None
        return Path(local) / "artifacts" / "package"

    def events(self) -> list[dict[str, Any]]:
        """Promotions, refusals and rollbacks, oldest first; an interrupted one that took effect counts."""
        found = self._registered()
        if found is None:
            return []
        events = {key: _parse(value) for key, value in found.tags.items() if key.startswith(_EVENT)}
        pending = _parse(found.tags.get(_PENDING, ""))
        if pending and found.aliases.get(PRODUCTION) is not None and int(found.aliases[PRODUCTION]) == pending["to"]:
            events.setdefault(_numbered(_EVENT, pending["event"]), pending["event"])
        return [event for _, event in sorted(events.items()) if event]

    def append(self, event: dict[str, Any]) -> dict[str, Any]:
        """Add to the record; the caller holds the lock. Returns the event with its number, time and author."""
        numbered = self.stamp(event)
        self._keep_whole(numbered)
        self._write(_brief(numbered))
        return numbered

    def stamp(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with the next number, the time (UTC) and who does it."""
        number = 1 + max((item["number"] for item in self.events()), default=0)
        return {"number": number, "when": datetime.now(UTC).isoformat(timespec="seconds"), "who": who(), **event}

    def move_production(self, to: int, event: dict[str, Any]) -> dict[str, Any]:
        """Point ``production`` at ``to`` and ``previous`` at what it was; the caller holds the lock.

        What is to happen is written down first and the move of ``production`` decides: interrupted before it,
        everything is as before; interrupted after it, readers see it done and the next writer completes the rest.
        """
        numbered = self.stamp(event)
        self._keep_whole(numbered)
        pending = {"to": to, "from": self.aliases().get(PRODUCTION), "event": _brief(numbered)}
        self.client.set_registered_model_tag(self.name, _PENDING, _text(pending))
        self.client.set_registered_model_alias(self.name, PRODUCTION, str(to))
        self.recover()
        return numbered

    def recover(self) -> None:
        """Complete, or forget, what an interrupted move left; the caller holds the lock."""
        found = self._registered()
        pending = _parse(found.tags.get(_PENDING, "")) if found is not None else None
        if found is None or not pending:
            return
        production = found.aliases.get(PRODUCTION)
        if production is not None and int(production) == pending["to"]:
            if pending["from"] is not None:
                self.client.set_registered_model_alias(self.name, PREVIOUS, str(pending["from"]))
            self._write(pending["event"])
        self.client.delete_registered_model_tag(self.name, _PENDING)

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the right to change aliases, on every machine that uses this registry; completes an interrupted move.

        A registered model of a reserved name is the lock, since its creation is atomic in every store.

        Raises:
            Busy: when another process still holds it after ``wait`` seconds.
        """
        token = uuid.uuid4().hex
        holder = {"token": token, "pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()}
        holder |= {"who": who(), "since": time.time()}
        broken = self._acquire(holder, time.monotonic() + wait)
        try:
            self.recover()
            yield
        finally:
            held = self._lock_holder()
            mine = [self._lock_name] if held is not None and held["token"] == token else []
            for name in (*mine, *broken):
                self._forget(name)

    def _keep_whole(self, event: dict[str, Any]) -> None:
        """Keep an event with every rule on its version, whose tags may be long."""
        self.client.set_model_version_tag(self.name, str(event["version"]), _numbered(_WHOLE, event), _text(event))

    def _write(self, event: dict[str, Any]) -> None:
        """Record a brief event: on the registered model, on the version, and whole as artifacts of its run."""
        from mlflow.exceptions import MlflowException

        number = str(event["version"])
        version = self.version(event["version"])
        whole = _parse(version.tags.get(_numbered(_WHOLE, event), "")) or event
        self.client.set_registered_model_tag(self.name, _numbered(_EVENT, event), _text(event))
        self.client.set_model_version_tag(self.name, number, DECISION_TAG, event["action"])
        self.client.set_model_version_tag(self.name, number, REASON_TAG, whole["reason"])
        folder = _numbered("promotion/", event)
        try:
            self.client.log_dict(version.run_id, whole, f"{folder}/decision.json")
            self.client.log_text(version.run_id, decision_page(whole), f"{folder}/decision.html")
        except MlflowException as error:
            # A deleted run must not keep the registry from moving on: the tags above hold the whole record.
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise

    @property
    def _lock_name(self) -> str:
        return f"{self.name}.promotion-lock"

    def _acquire(self, holder: dict[str, Any], deadline: float) -> list[str]:
        broken: list[str] = []
        while not self._create_lock(holder):
            current = self._lock_holder()
            if current is not None and _dead(current):
                broken += self._break_lock(current)
            elif time.monotonic() >= deadline:
                raise Busy(f"{_busy(self.name, current)} Wait for it and run again.")
            else:
                time.sleep(_POLL_SECONDS)
        return broken

    def _create_lock(self, holder: dict[str, Any]) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self._lock_name, tags={_HOLDER: json.dumps(holder)})
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                return False
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                # MLflow met another's lock, looked it up to say so, and found it let go meanwhile.
                return self._create_lock(holder)
            raise RegistryError(f"the registry {shown(self.uri)} refused a lock: {error}.") from None
        return True

    def _lock_holder(self) -> dict[str, Any] | None:
        from mlflow.exceptions import MlflowException

        try:
            return _parse(self.client.get_registered_model(self._lock_name).tags.get(_HOLDER, ""))
        except MlflowException:
            return None

    def _break_lock(self, current: dict[str, Any]) -> list[str]:
        """Rename a dead holder's lock; of several who try, the store lets one succeed."""
        from mlflow.exceptions import MlflowException

        aside = f"{self._lock_name}.{current['token']}"
        try:
            self.client.rename_registered_model(self._lock_name, aside)
        except MlflowException:
            return []
        return [aside]

    def _forget(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _registered(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise RegistryError(
                f"the registry {shown(self.uri)} cannot be read: {str(error).rstrip('.')}. Check MLFLOW_TRACKING_URI."
            ) from None


def open_client(uri: str, *, create: bool = False) -> "MlflowClient":
    """An MLflow client for ``uri``, after a short check that something is there.

    Raises:
        RegistryError: when the database does not exist (unless ``create``) or the server does not answer.
    """
    _check_reachable(uri, create)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, ImportError) as error:
        raise UsageError(f"{shown(uri)} is no registry address: {error}. Set MLFLOW_TRACKING_URI.") from None


def shown(uri: str) -> str:
    """The address without a password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest else uri


def who() -> str:
    """Who acts, for the record: the MLflow user when one is set, else user and host."""
    named = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if named:
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _check_reachable(uri: str, create: bool) -> None:
    if uri.startswith("sqlite:///") and not create:
        path = uri.removeprefix("sqlite:///")
        if not Path(path).is_file() and not Path(unquote(path)).is_file():
            raise RegistryError(
                f"no model is in production yet: there is no registry at {path}. Run in the project: dvc repro. "
                "Another registry: set MLFLOW_TRACKING_URI."
            )
    try:
        if uri.startswith(("http://", "https://")):
            _ask_server(uri)
        elif uri.startswith(tuple(_DATABASE_PORTS)):
            where = urlsplit(uri)
            port = where.port or _DATABASE_PORTS[where.scheme.partition("+")[0]]
            socket.create_connection((where.hostname or "localhost", port), _REACH_SECONDS).close()
    except (OSError, HTTPException, ValueError) as error:
        raise RegistryError(
            f"the registry {shown(uri)} does not answer: {getattr(error, 'reason', error)}. "
            "Check MLFLOW_TRACKING_URI and that the server runs."
        ) from None


def _ask_server(uri: str) -> None:
    # Neither urlopen knows a name and password in the address, nor does the question need them.
    scheme, _, rest = uri.partition("://")
    try:
        urlopen(f"{scheme}://{rest.rpartition('@')[2].rstrip('/')}/health", timeout=_REACH_SECONDS).close()
    except HTTPError as error:
        if error.code >= 500:  # else it is there, and MLflow tells what it does not allow
            raise


def _version(item: "ModelVersion") -> Version:
    created = datetime.fromtimestamp(item.creation_timestamp / 1000, UTC)
    return Version(int(item.version), item.run_id or "", dict(item.tags), created)


def _numbered(prefix: str, event: dict[str, Any]) -> str:
    return f"{prefix}{event['number']:06d}"


def _brief(event: dict[str, Any]) -> dict[str, Any]:
    """An event without its rules but for the names of those that failed; databases keep 5,000 characters of a tag."""
    rules = event.get("decision", {}).get("rules", [])
    brief = {key: value for key, value in event.items() if key != "decision"}
    return brief | {
        "reason": event["reason"][:_REASON_LENGTH],
        "failed": [rule["name"] for rule in rules if rule["passed"] is False],
    }


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _busy(name: str, holder: dict[str, Any] | None) -> str:
    if holder is None:
        return f"another promotion of {name} is just starting or ending."
    since = datetime.fromtimestamp(holder["since"], UTC).isoformat(timespec="seconds")
    place = f"process {holder['pid']} of {holder['who']} on {holder['host']}"
    return f"another promotion of {name} is running: {place} since {since}."


def _dead(holder: dict[str, Any]) -> bool:
    """Whether a holder is gone: its process on this host ended, or its time is over."""
    if time.time() - holder["since"] > LOCK_SECONDS:
        return True
    here = bool(holder["host"] == socket.gethostname())
    return here and _started(holder["pid"]) != holder["started"]


def _started(pid: int) -> str:
    """When a process began (clock ticks since boot), which tells it from a later one of the same number; "" if gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc").is_dir() else _alive(pid)
    return "" if fields[0] == "Z" else fields[19]


def _alive(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"
