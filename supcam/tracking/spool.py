"""What a run sends to the tracking store, in order; what a lost server cannot take is kept in a folder for later."""

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from supcam.tracking.place import store_root, tracking_uri

_INTERVAL = 2.0  # seconds between two sendings of buffered metrics
_RETRY_DELAYS = (0.5, 2.0)  # seconds; then the store counts as lost
_LOST_FOR = 30.0  # seconds before a lost store is tried again
_CALLERS_FAULT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "BAD_REQUEST",
}

Operation = dict[str, Any]


def unsent_folder(root: Path) -> Path:
    """Where operations wait that a lost store did not take: one folder per run."""
    return store_root(root) / "state" / "unsent"


def store_id(folder: Path) -> str:
    """Id in the store of the run whose operations wait in ``folder``: a run made without the store got it when sent."""
    identity = _identity(folder)
    return identity.read_text(encoding="utf-8") if identity.exists() else folder.name


class Outbox:
    """Sends the operations of one run; metrics are collected and sent in batches by a thread.

    Args:
        client: An ``MlflowClient``.
        run_id: The run they belong to.
        folder: Where operations wait while the store is lost (made only then).

    Errors that are the caller's (a bad name, a changed parameter) are raised; those of a metric at the next call.
    """

    def __init__(self, client: Any, run_id: str, folder: Path) -> None:
        self._client, self._run_id, self._folder = client, run_id, folder
        self._buffer: list[list[Any]] = []
        self._filling = threading.Lock()  # short: training waits for it, never for the store
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._lost_until = 0.0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Buffer a row of metrics with the present time; returns at once."""
        now = int(time.time() * 1000)
        with self._filling:
            self._raise_late_error()
            self._buffer += [[name, float(value), now, int(step)] for name, value in values.items()]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name=f"tracking-{self._run_id[:8]}")
                self._thread.start()

    def send(self, operation: Operation) -> None:
        """Send one operation, after the metrics that came before it."""
        with self._lock:
            self._raise_late_error()
            self.flush()
            self._deliver(operation)

    def flush(self) -> None:
        """Send the buffered metrics now."""
        with self._lock:
            with self._filling:
                rows, self._buffer = self._buffer, []
            if rows:
                self._deliver({"op": "metrics", "items": rows})

    def close(self, operation: Operation) -> None:
        """Send what is left and a last operation, then stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._lost_until = 0.0
            self.send(operation)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                self.flush()
            except Exception as error:
                self._error = error

    def _raise_late_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _deliver(self, operation: Operation) -> None:
        if self._folder.exists() and not self._sent_backlog():
            keep(self._folder, operation)
            return
        for delay in (*_RETRY_DELAYS, None):
            try:
                apply(self._client, store_id(self._folder), operation)
                return
            except Exception as error:
                if _callers_fault(error):
                    raise
                if delay is not None:
                    time.sleep(delay)
        self._lost_until = time.monotonic() + _LOST_FOR
        keep(self._folder, operation)

    def _sent_backlog(self) -> bool:
        if time.monotonic() < self._lost_until:
            return False
        try:
            replay(self._client, self._folder)
        except Exception as error:
            if _callers_fault(error):
                raise
            self._lost_until = time.monotonic() + _LOST_FOR
            return False
        return True


def apply(client: Any, run_id: str, operation: Operation) -> None:
    """Carry out one operation on the store."""
    from mlflow.entities import Metric, Param, RunTag

    kind, items = operation["op"], operation.get("items", {})
    if kind == "metrics":
        for chunk in _chunks(items, 1000):
            client.log_batch(run_id, metrics=[Metric(*row) for row in chunk])
    elif kind == "params":
        for chunk in _chunks(list(items.items()), 100):
            client.log_batch(run_id, params=[Param(name, value) for name, value in chunk])
    elif kind == "tags":
        for chunk in _chunks(list(items.items()), 100):
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in chunk])
    elif kind == "artifact":
        send = client.log_artifacts if Path(operation["path"]).is_dir() else client.log_artifact
        send(run_id, operation["path"], operation["folder"])
    elif kind == "inputs":
        _log_input(client, run_id, operation)
    else:
        client.set_terminated(run_id, operation["status"], operation["end_time"])


def keep(folder: Path, operation: Operation) -> None:
    """Append an operation to those that wait; files it names are copied, since they may be gone later."""
    with _locked(folder):
        folder.mkdir(exist_ok=True)
        if operation["op"] == "artifact":
            source = Path(operation["path"])
            copy = folder / "files" / uuid.uuid4().hex / source.name
            copy.parent.mkdir(parents=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
            operation = {**operation, "path": str(copy)}
        with (folder / "operations.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(operation) + "\n")


def replay(client: Any, folder: Path) -> str:
    """Send the operations that wait in a folder, in order, and remove it; returns the run id in the store."""
    with _locked(folder):
        waiting = _waiting(folder)
        for done, operation in enumerate(waiting):
            try:
                if operation["op"] != "create":
                    apply(client, store_id(folder), operation)
                elif not _identity(folder).exists():
                    _write_whole(_identity(folder), _create_late(client, operation, folder.parent))
            except Exception:
                _write_whole(folder / "operations.jsonl", "".join(json.dumps(item) + "\n" for item in waiting[done:]))
                raise
        shutil.rmtree(folder, ignore_errors=True)  # gone already, when the command sent it meanwhile
    return store_id(folder)


def pending_uploads(root: Path) -> list[Path]:
    """Folders of runs with operations that no store has taken yet, oldest first."""
    folder = unsent_folder(root)
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def upload_pending(root: Path) -> list[str]:
    """Send what a lost store left behind; returns the ids of the runs that are now complete.

    Raises:
        SupcamError: when the store is still lost, or does not take a run; what was not sent stays for the next call.
    """
    from supcam.errors import SupcamError
    from supcam.tracking.runs import open_client

    folders = pending_uploads(root)
    if not folders:
        return []
    client = open_client(root)
    # A parent is made before its children, which name it.
    folders.sort(key=_has_local_parent)
    done: list[str] = []
    refused = ""
    for folder in folders:
        try:
            done.append(replay(client, folder))
        except Exception as error:
            refused = refused or f"run {folder.name} could not be sent to {tracking_uri(root)}: {error}. "
            if not _callers_fault(error):  # the store is lost, for the other runs as well
                break
    if refused:
        raise SupcamError(
            f"{refused}{len(done)} of {len(folders)} runs are sent, the rest waits in {folders[0].parent}. "
            "Try again later, or remove the folder of a run that the store refuses."
        )
    return done


def _waiting(folder: Path) -> list[Operation]:
    """The operations that wait in a folder; a line that a kill cut off is none."""
    file, found = folder / "operations.jsonl", []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def _has_local_parent(folder: Path) -> bool:
    first = next(iter(_waiting(folder)), {})
    return str(first.get("tags", {}).get("mlflow.parentRunId", "")).startswith("local-")


def _identity(folder: Path) -> Path:
    """Where the store's id of a run made without it is kept, also after everything was sent."""
    return folder.with_name(f"{folder.name}.id")


def _create_late(client: Any, operation: Operation, folder: Path) -> str:
    tags = dict(operation["tags"])
    if "mlflow.parentRunId" in tags:
        tags["mlflow.parentRunId"] = store_id(folder / tags["mlflow.parentRunId"])
    run = client.create_run(operation["experiment_id"], operation["start_time"], tags, operation["name"])
    return str(run.info.run_id)


def _log_input(client: Any, run_id: str, operation: Operation) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=operation["name"],
        digest=operation["digest"],
        source_type="local",
        source=json.dumps({"uri": operation["source"]}),
        profile=json.dumps(operation["profile"]),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", operation["context"])])])


def _write_whole(file: Path, text: str) -> None:
    scratch = file.with_name(f".{file.name}.part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(file)


def _callers_fault(error: Exception) -> bool:
    code = getattr(error, "error_code", None)
    return code in _CALLERS_FAULT or isinstance(error, (TypeError, ValueError, FileNotFoundError))


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
