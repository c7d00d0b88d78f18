"""A tracked run on an explicit MLflow client: no global state, one true final status."""

import contextlib
import json
import logging
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from supcam.errors import SupcamError, UsageError
from supcam.settings import Settings
from supcam.tracking.place import EXPERIMENT, artifact_location, quiet, tracking_uri
from supcam.tracking.provenance import all_versions, git_state, run_tags
from supcam.tracking.spool import Outbox, keep, unsent_folder

_MAX_TAG = 5000
_TERMINATED = 128 + signal.SIGTERM


def open_client(root: Path, *, ask: bool = True) -> Any:
    """An ``MlflowClient`` on the store of the project; its tables are made when they are missing.

    Args:
        root: The project root.
        ask: Whether a server has to answer already; without, it may be away.

    Raises:
        SupcamError: when the store cannot be reached.
    """
    quiet()
    # A lost server is handled by waiting and by sending later, not by minutes of silence inside one call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow.store.db.utils", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    for attempt in range(5):
        try:
            with _one_at_a_time(root, uri):
                client = MlflowClient(uri, registry_uri=uri)
                if ask:
                    client.search_experiments(max_results=1)
            return client
        except Exception as error:
            if uri.startswith("http") or attempt == 4:
                raise SupcamError(
                    f"tracking store {uri} cannot be reached: {error}. "
                    "Start it, or correct or unset MLFLOW_TRACKING_URI."
                ) from error
            time.sleep(0.2 * 2**attempt * (1 + random.random()))
    raise AssertionError("unreachable")


def take_parent_run(environ: "os._Environ[str] | dict[str, str]" = os.environ) -> str | None:
    """Take ``MLFLOW_RUN_ID`` out of the environment: left there, MLflow would reopen that run and end it too early."""
    return environ.pop("MLFLOW_RUN_ID", None) or None


class Run:
    """One run of the tracking store.

    Attributes:
        run_id: Its id; starts with ``local-`` when it was made while the store was lost.
        experiment_id: Where it is.
        client: The ``MlflowClient`` for what this class does not do.
        root: The project root.
    """

    def __init__(self, client: Any, run_id: str, experiment_id: str, root: Path) -> None:
        self.client, self.run_id, self.experiment_id, self.root = client, run_id, experiment_id, root
        self._outbox: Outbox | _Nowhere = Outbox(client, run_id, unsent_folder(root) / run_id)
        self.status: str | None = None

    @classmethod
    def attach(cls, root: Path, run_id: str, experiment_id: str | None = None) -> "Run":
        """Write to a run that exists and that someone else ends, such as the one ``mlflow run`` made.

        Where its experiment is told, the server is not asked and may be away.
        """
        client = open_client(root, ask=experiment_id is None)
        return cls(client, run_id, experiment_id or client.get_run(run_id).info.experiment_id, root)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Metrics of one step; they are collected and sent in the background."""
        self._outbox.metrics(metrics, step)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Parameters; nested mappings become dotted names."""
        self._outbox.send({"op": "params", "items": {key: _text(value) for key, value in _flat(params)}})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Tags, values as text."""
        self._outbox.send({"op": "tags", "items": {key: _text(value) for key, value in tags.items()}})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """One file, below ``folder`` of the run's artifacts."""
        if not path.is_file():
            raise SupcamError(f"artifact {path} does not exist or is no file; a run can log only what was written.")
        self._outbox.send({"op": "artifact", "path": str(path), "folder": folder})

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """All files of a folder, below ``folder`` of the run's artifacts."""
        if not path.is_dir():
            raise SupcamError(f"artifact folder {path} does not exist; a run can log only what was written.")
        self._outbox.send({"op": "artifact", "path": str(path), "folder": folder})

    def log_text(self, text: str, name: str) -> None:
        """A text as the artifact ``name``."""
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / Path(name).name
            file.write_text(text, encoding="utf-8", errors="surrogateescape")
            parent = Path(name).parent.as_posix()
            self.log_artifact(file, None if parent == "." else parent)

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """A data set the run read: its name, content hash, place, role (training, validation, test) and counts."""
        self._outbox.send(
            {
                "op": "inputs",
                "name": name,
                "digest": digest[:36],
                "source": source,
                "context": context,
                "profile": dict(profile),
            }
        )

    def flush(self) -> None:
        """Send collected metrics now."""
        self._outbox.flush()

    def finish(self, status: str = "FINISHED", error: str | None = None) -> None:
        """End the run: FINISHED, FAILED or KILLED, with the error as a tag. Only the first call counts."""
        if self.status is None:
            self.status = status
            if error is not None:
                self.set_tags({"supcam.error": error})
            self._outbox.close({"op": "status", "status": status, "end_time": int(time.time() * 1000)})

    @contextmanager
    def child(self, name: str, tags: Mapping[str, object] | None = None) -> Iterator["Run"]:
        """A run below this one, ended as ``stage_run`` ends its run."""
        with _ended(_create(self.client, self.root, self.experiment_id, name, tags or {}, self.run_id)) as run:
            yield run


class _Nowhere:
    """Drops what an outbox would send."""

    def metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def send(self, item: Mapping[str, object]) -> None: ...

    def close(self, item: Mapping[str, object]) -> None: ...

    def flush(self) -> None: ...


class UntrackedRun(Run):
    """A run of which nothing is kept, for processes that share the work of another one."""

    def __init__(self, root: Path) -> None:
        self.client, self.run_id, self.experiment_id, self.root = None, "", "", root
        self._outbox = _Nowhere()
        self.status = None


@contextmanager
def stage_run(
    stage: str,
    root: Path,
    settings: Settings,
    *,
    parent_run_id: str | None = None,
    tags: Mapping[str, object] | None = None,
    located: Mapping[str, Path] | None = None,
) -> Iterator[Run]:
    """The run of one stage, with everything that made it as tags, its settings as parameters and the diff as artifact.

    Args:
        stage: Name of the stage, and of the run.
        root: Project root.
        settings: All settings; the section of the stage becomes parameters.
        parent_run_id: The run above; default is the one of ``mlflow run`` (``MLFLOW_RUN_ID``), if any.
        tags: Further tags.
        located: Where dependencies really lie, see ``stage_inputs``.

    The status is FINISHED at the end of the block, KILLED after Ctrl-C or SIGTERM, else FAILED with the error as tag.

    Raises:
        SupcamError: when the tracking store cannot be reached at the start.
    """
    parent = parent_run_id or take_parent_run()
    client = open_client(root)
    experiment = _experiment_of(client, parent) if parent else _experiment(client, root)
    all_tags = {**run_tags(root, stage, settings, located), **(tags or {})}
    with _ended(_create(client, root, experiment, stage, all_tags, parent)) as run:
        run.log_params(_stage_params(stage, settings))
        run.log_text(json.dumps(settings.model_dump(mode="json", by_alias=True), indent=1), "settings.json")
        run.log_text(all_versions(), "packages.txt")
        state = git_state(root)
        if state.dirty:
            run.log_text(state.diff, "changes.patch")
        yield run


def _stage_params(stage: str, settings: Settings) -> dict[str, Any]:
    values = settings.model_dump(mode="json", by_alias=True)
    sections = ("runtime", "input", "model", stage) if stage in values else tuple(values)
    return {name: values[name] for name in sections if isinstance(values[name], dict)}


def tag_run(root: Path, run_id: str, stage: str, settings: Settings) -> None:
    """Give a run that ``mlflow run`` made the tags of the design.

    Raises:
        UsageError: when the store has no such run.
    """
    client = open_client(root)
    _experiment_of(client, run_id)
    for name, value in run_tags(root, stage, settings).items():
        if not name.startswith("mlflow."):
            client.set_tag(run_id, name, value)


def _experiment_of(client: Any, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        raise UsageError(
            f"the run above, MLFLOW_RUN_ID = {run_id}, cannot be read: {error.message}. "
            "Set MLFLOW_TRACKING_URI to its store, or unset MLFLOW_RUN_ID."
        ) from None


def _experiment(client: Any, root: Path) -> str:
    """Id of the experiment, made if missing; two processes may do so at once."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    for _ in range(5):
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise SupcamError(
                f"experiment {name!r} was deleted. "
                f"Run: mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        if found is not None:
            return str(found.experiment_id)
        with contextlib.suppress(MlflowException):
            return str(client.create_experiment(name, artifact_location(root, tracking_uri(root))))
        time.sleep(0.2 * (1 + random.random()))
    raise SupcamError(f"experiment {name!r} could neither be found nor made in {tracking_uri(root)}. Run again.")


def _create(client: Any, root: Path, experiment: str, name: str, tags: Mapping[str, object], parent: str | None) -> Run:
    texts = {key: _text(value) for key, value in tags.items()}
    if parent is not None:
        texts["mlflow.parentRunId"] = parent
    start = int(time.time() * 1000)
    # Below a parent made offline only another local run is possible: its true parent id is not known yet.
    if parent is None or not parent.startswith("local-"):
        try:
            run = client.create_run(experiment, start, texts, name)
            return Run(client, run.info.run_id, experiment, root)
        except Exception:
            if parent is None:
                raise
    local = f"local-{uuid.uuid4().hex}"
    operation = {"op": "create", "experiment_id": experiment, "start_time": start, "tags": texts, "name": name}
    keep(unsent_folder(root) / local, operation)
    return Run(client, local, experiment, root)


@contextmanager
def _ended(run: Run) -> Iterator[Run]:
    try:
        with _sigterm_raises():
            yield run
    except KeyboardInterrupt:
        run.finish("KILLED", "interrupted")
        raise
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit.
        killed = error.code == _TERMINATED or isinstance(error.__context__, KeyboardInterrupt)
        run.finish("KILLED" if killed else "FAILED" if error.code else "FINISHED", f"exit {error.code}")
        raise
    except BaseException as error:
        run.finish("FAILED", f"{type(error).__name__}: {error}")
        raise
    run.finish()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the run ends as killed; only where nobody else handles it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _one_at_a_time(root: Path, uri: str) -> Iterator[None]:
    """Two processes that make the tables of a new sqlite file at once break each other."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    import fcntl

    folder = unsent_folder(root).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tracking.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text[:_MAX_TAG]
