"""A registered model in an MLflow registry: its versions, aliases and record, and the move of production.

Everything goes through one explicit client; no global MLflow state is read or changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supcam.registry.integrity import CONTENT_TAG, SHIPPED_TAG, check_registered, package_below
from supcam.registry.reach import RegistryError, open_client
from supcam.registry.record import (
    BY_HAND,
    DAMAGED,
    PENDING_TAG,
    announce,
    as_text,
    brief,
    by_hand,
    events_of,
    pending_move,
    served,
    whole_event,
    write_by_hand,
    write_event,
)
from supcam.serving.engine import PackageError
from supcam.tracking import local_location, shown, store_trouble

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

PRODUCTION = "production"
PREVIOUS = "previous"
CANDIDATE = "candidate"


class Tag:
    """Tags of a version."""

    CONTENT = CONTENT_TAG
    DATA = "supcam.data"
    CODE = "supcam.code"
    SHIPPED = SHIPPED_TAG  # hash of the code that travels with the model
    COMMIT = "supcam.git.commit"
    LOGGED = "supcam.logged_model"  # id of the logged model, which MLflow's own database does not keep with a version
    TRAINED_BY = "supcam.trained_by"  # the run of fine-tuning
    RUN = "supcam.run"  # the run of `mlflow run .` above the one that registered the version
    VALIDATION = "supcam.data.validation"
    METRIC = "supcam.validation."  # and the name of a metric on the validation crops
    TEST = "supcam.test."  # and the name of a metric on the test crops
    SECONDS = "supcam.training_seconds"  # pre-training and fine-tuning


@dataclass(frozen=True)
class Version:
    """A registered version of the model: number, run, tags and when it was registered (UTC)."""

    number: int
    run_id: str
    tags: dict[str, str]
    created: datetime


class Registry:
    """The versions, aliases and record of the registered model ``name`` at the address ``uri``."""

    def __init__(self, uri: str, name: str = "supcam", *, create: bool = False) -> None:
        """Open the registry, see :func:`open_client`; only ``create`` may make a new database."""
        self.uri = uri
        self.name = name
        self.client = open_client(uri, create=create)
        self._check_lock: Callable[[], None] = lambda: None

    def aliases(self) -> dict[str, int]:
        """Version by alias, a promotion that was interrupted after its decisive step counted as done."""
        found = self._registered()
        aliases = {name: int(number) for name, number in found.aliases.items()} if found is not None else {}
        pending = pending_move(found)
        if pending and aliases.get(PRODUCTION) == pending["to"] and pending["from"] is not None:
            aliases[PREVIOUS] = pending["from"]
        return aliases

    def version(self, number: int) -> Version:
        """One version by its number; a RegistryError says which there are when it is not one of them."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version(self.name, str(number)))
        except MlflowException:
            known = ", ".join(str(item.number) for item in self.versions()) or "none"
            raise RegistryError(f"model {self.name} has no version {number}; registered are {known}.") from None

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        from mlflow.utils import get_results_from_paginated_fn

        search = partial(self.client.search_model_versions, f"name = '{self.name}'")
        found = get_results_from_paginated_fn(  # type: ignore[no-untyped-call]
            lambda size, token: search(size, page_token=token), 200
        )
        return sorted(map(_version, found), key=lambda item: -item.number)

    def resolve(self, which: str | int) -> Version:
        """A version by alias or number; RegistryError when there is no model, no such alias or no such version."""
        if str(which).isdecimal():
            return self.version(int(which))
        aliases = self.aliases()
        if str(which) in aliases:
            return self.version(aliases[str(which)])
        if which == PRODUCTION and served(self.events()):
            raise RegistryError(
                f"model {self.name} has no alias {PRODUCTION!r} any more in {shown(self.uri)}: it, or its version, was "
                "deleted. Run: supcam rollback, which puts the last version that was in production back."
            )
        if which == PRODUCTION:
            raise RegistryError(
                f"no model {self.name} is in production yet in {shown(self.uri)}. "
                "Run: dvc repro, or: supcam promote. Another registry: set MLFLOW_TRACKING_URI."
            )
        known = ", ".join(f"{name} (version {number})" for name, number in sorted(aliases.items())) or "none"
        raise RegistryError(f"model {self.name} has no alias {str(which)!r} in {shown(self.uri)}; it has {known}.")

    def package(self, version: Version) -> Path:
        """Folder of the version's package, a local store read in place, compared with what was registered.

        Raises:
            RegistryError: when the files cannot be fetched.
            PackageError: when they are not those that were registered.
        """
        model = self._fetch(version)
        check_registered(model, version.tags, f"version {version.number} of {self.name}")
        return package_below(model)

    def readable(self, number: int) -> bool:
        """Whether a version exists and its files are there, those that were registered."""
        try:
            self.package(self.version(number))
        except (RegistryError, PackageError):
            return False
        return True

    def source(self, version: Version) -> tuple[str, str]:
        """Run and artifact path of a version's files; ("", "") where they do not lie in a run."""
        return _in_run(self.client.get_model_version_download_uri(self.name, str(version.number)))

    def _fetch(self, version: Version) -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        source = f"version {version.number}"
        try:
            source = self.client.get_model_version_download_uri(self.name, str(version.number))
            run_id, path = _in_run(source)
            if run_id:
                source = f"{self.client.get_run(run_id).info.artifact_uri}/{path}"
            source = local_location(self.uri, source)
            return Path(download_artifacts(artifact_uri=source, tracking_uri=self.uri))
        except (MlflowException, OSError) as error:
            raise RegistryError(
                store_trouble(error, self.uri)
                or f"the files of {self.name} version {version.number} cannot be fetched from {source}: "
                f"{str(error).splitlines()[0].rstrip('.')}. In a copied project copy mlartifacts/ too; else run "
                "dvc repro, which writes them again, or supcam rollback."
            ) from None

    def events(self) -> list[dict[str, Any]]:
        """Promotions, refusals and rollbacks, oldest first; an interrupted one that took effect counts.

        An event whose tag was damaged is read from its version, which keeps it too. Where the alias was changed by
        hand, the last event says so, without a time.
        """
        found = self._registered()
        events = events_of(found, _production(found))
        if any(event["action"] == DAMAGED for event in events):
            versions = self.versions()
            events = [_restored(event, versions) for event in events]
        return events + by_hand(events, _production(found))

    def append(self, event: dict[str, Any]) -> dict[str, Any]:
        """Add to the record, and return the event with number, time and author; the caller holds the lock."""
        numbered = announce(self.client, self.name, event, self.events())
        write_event(self.client, self.name, brief(numbered))
        return numbered

    def move_production(self, to: int, event: dict[str, Any]) -> dict[str, Any]:
        """Point ``production`` at ``to`` and ``previous`` at what it was; the caller holds the lock.

        What is to happen is written down first and the move of ``production`` decides: interrupted before it,
        everything is as before; interrupted after it, readers see it done and the next writer completes the rest.
        Returns the event with its number, time and author.
        """
        numbered = announce(self.client, self.name, event, self.events())
        pending = {"to": to, "from": self.aliases().get(PRODUCTION), "event": brief(numbered)}
        self._check_lock()
        self.client.set_registered_model_tag(self.name, PENDING_TAG, as_text(pending))
        self.client.set_registered_model_alias(self.name, PRODUCTION, str(to))
        self._recover()
        return numbered

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the right to change aliases, see :func:`promotion_lock`; completes an interrupted move."""
        from supcam.registry.lock import promotion_lock

        with promotion_lock(self.client, self.uri, self.name, wait) as self._check_lock:
            self._recover()
            yield

    def _recover(self) -> None:
        """Complete, or forget, what an interrupted move left, and record a move by hand; the caller holds the lock."""
        found = self._registered()
        if found is None:
            return
        pending = pending_move(found)
        if pending and _production(found) == pending["to"]:
            if pending["from"] is not None:
                self.client.set_registered_model_alias(self.name, PREVIOUS, str(pending["from"]))
            write_event(self.client, self.name, pending["event"])
        if PENDING_TAG in found.tags:
            self.client.delete_registered_model_tag(self.name, PENDING_TAG)
        for event in self.events():
            if event["action"] in BY_HAND and not event["when"]:
                write_by_hand(self.client, self.name, event)

    def _registered(self) -> "RegisteredModel | None":
        """The registered model with its tags and aliases; None when there is none of this name."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise RegistryError(
                f"the registry {shown(self.uri)} cannot be read: {str(error).rstrip('.')}. Check MLFLOW_TRACKING_URI."
            ) from None


def _in_run(address: str) -> tuple[str, str]:
    """Run and artifact path that an address names; ("", "") where it names no run."""
    run_id, _, path = address.removeprefix("runs:/").partition("/")
    return (run_id, path) if address.startswith("runs:/") else ("", "")


def _production(found: "RegisteredModel | None") -> int | None:
    number = found.aliases.get(PRODUCTION) if found is not None else None
    return None if number is None else int(number)


def _version(item: "ModelVersion") -> Version:
    created = datetime.fromtimestamp(item.creation_timestamp / 1000, UTC)
    return Version(int(item.version), item.run_id or "", dict(item.tags), created)


def _restored(event: dict[str, Any], versions: list[Version]) -> dict[str, Any]:
    if event["action"] != DAMAGED:
        return event
    whole = [whole_event(version.tags, event["number"]) for version in versions]
    # An interrupted command may have left one of the same number on another version: the last one took effect.
    return max((one for one in whole if one is not None), key=lambda one: str(one["when"]), default=event)
