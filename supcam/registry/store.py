"""A registered model in an MLflow registry: its versions, aliases and record, and the move of production.

Everything goes through one explicit client; no global MLflow state is read or changed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supcam.registry.lock import promotion_lock
from supcam.registry.reach import RegistryError, open_client, registered_model, shown
from supcam.registry.record import (
    PENDING_TAG,
    as_text,
    brief,
    events_of,
    keep_whole,
    pending_move,
    stamped,
    write_event,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

PRODUCTION = "production"
PREVIOUS = "previous"
CANDIDATE = "candidate"
CONTENT_TAG = "supcam.content"
DATA_TAG = "supcam.data"
CODE_TAG = "supcam.code"
SHIPPED_TAG = "supcam.shipped"  # hash of the code that travels with the model
RUN_TAG = "supcam.run"  # the run of `mlflow run .` above the one that registered the version
VALIDATION_TAG = "supcam.data.validation"
METRIC_TAG = "supcam.validation."  # and the name of a metric on the validation crops


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
        pending = pending_move(found)
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
        return package_below(Path(local))

    def events(self) -> list[dict[str, Any]]:
        """Promotions, refusals and rollbacks, oldest first; an interrupted one that took effect counts."""
        found = self._registered()
        return events_of(found, _production(found))

    def append(self, event: dict[str, Any]) -> None:
        """Add to the record; the caller holds the lock."""
        numbered = stamped(event, self.events())
        keep_whole(self.client, self.name, numbered)
        write_event(self.client, self.name, brief(numbered))

    def move_production(self, to: int, event: dict[str, Any]) -> dict[str, Any]:
        """Point ``production`` at ``to`` and ``previous`` at what it was; the caller holds the lock.

        What is to happen is written down first and the move of ``production`` decides: interrupted before it,
        everything is as before; interrupted after it, readers see it done and the next writer completes the rest.

        Returns:
            The event with its number, time and author.
        """
        numbered = stamped(event, self.events())
        keep_whole(self.client, self.name, numbered)
        pending = {"to": to, "from": self.aliases().get(PRODUCTION), "event": brief(numbered)}
        self.client.set_registered_model_tag(self.name, PENDING_TAG, as_text(pending))
        self.client.set_registered_model_alias(self.name, PRODUCTION, str(to))
        self._recover()
        return numbered

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the right to change aliases, on every machine that uses this registry; completes an interrupted move.

        Raises:
            Busy: when another process still holds it after ``wait`` seconds.
        """
        with promotion_lock(self.client, self.uri, self.name, wait):
            self._recover()
            yield

    def _recover(self) -> None:
        """Complete, or forget, what an interrupted move left; the caller holds the lock."""
        found = self._registered()
        pending = pending_move(found) if found is not None else None
        if not pending:
            return
        if _production(found) == pending["to"]:
            if pending["from"] is not None:
                self.client.set_registered_model_alias(self.name, PREVIOUS, str(pending["from"]))
            write_event(self.client, self.name, pending["event"])
        self.client.delete_registered_model_tag(self.name, PENDING_TAG)

    def _registered(self) -> "RegisteredModel | None":
        return registered_model(self.client, self.uri, self.name)


def _production(found: "RegisteredModel | None") -> int | None:
    number = found.aliases.get(PRODUCTION) if found is not None else None
    return None if number is None else int(number)


def _version(item: "ModelVersion") -> Version:
    created = datetime.fromtimestamp(item.creation_timestamp / 1000, UTC)
    return Version(int(item.version), item.run_id or "", dict(item.tags), created)


def package_below(model: Path) -> Path:
    """The package inside the folder of an MLflow model; the folder itself where it is a package.

    MLflow keeps the data of a model below ``data``; earlier versions of supcam had it keep them below ``artifacts``.
    """
    return next(
        (path for path in (model / "data" / "package", model / "artifacts" / "package") if path.is_dir()), model
    )
