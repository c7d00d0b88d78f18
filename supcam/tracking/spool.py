"""What a run sends to the tracking store, in order; what a lost server cannot take is kept in a folder for later."""

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._lost_until = 0.0

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Buffer a row of metrics with the present time; returns at once."""
        now = int(time.time() * 1000)
        with self._lock:
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
            if self._buffer:
                rows, self._buffer = self._buffer, []
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
                apply(self._client, self._run_id, operation)
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
    folder.mkdir(parents=True, exist_ok=True)
    if operation["op"] == "artifact":
        source = Path(operation["path"])
        copy = folder / "files" / uuid.uuid4().hex / source.name
        copy.parent.mkdir(parents=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        operation = {**operation, "path": str(copy)}
    with _locked(folder), (folder / "operations.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(operation) + "\n")


def replay(client: Any, folder: Path) -> str:
    """Send the operations that wait in a folder, in order, and remove it; returns the run id in the store."""
    with _locked(folder):
        file = folder / "operations.jsonl"
        waiting = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        identity = folder / "run_id"
        run_id = identity.read_text(encoding="utf-8") if identity.exists() else folder.name
        for done, operation in enumerate(waiting):
            try:
                if operation["op"] == "create":
                    run_id = _create_late(client, operation, folder.parent)
                    identity.write_text(run_id, encoding="utf-8")
                    _remember(folder.parent, folder.name, run_id)
                else:
                    apply(client, run_id, operation)
            except Exception:
                _write_lines(file, waiting[done:])
                raise
        shutil.rmtree(folder)
    return run_id


def pending_uploads(root: Path) -> list[Path]:
    """Folders of runs with operations that no store has taken yet, oldest first."""
    folder = unsent_folder(root)
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def upload_pending(root: Path) -> list[str]:
    """Send what a lost store left behind; returns the ids of the runs that are now complete.

    Raises:
        SupcamError: when the store is still lost; what was not sent stays for the next call.
    """
    from supcam.errors import SupcamError
    from supcam.tracking.runs import open_client

    folders = pending_uploads(root)
    if not folders:
        return []
    client = open_client(root)
    # A parent is made before its children, which name it.
    folders.sort(key=lambda path: '"mlflow.parentRunId": "local-' in _first_line(path / "operations.jsonl"))
    done = []
    for folder in folders:
        try:
            done.append(replay(client, folder))
        except Exception as error:
            raise SupcamError(
                f"run {folder.name} could not be sent to {tracking_uri(root)}: {error}. "
                f"{len(done)} of {len(folders)} runs are sent, the rest waits in {folder.parent}. Try again later."
            ) from error
    return done


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline()


def _create_late(client: Any, operation: Operation, folder: Path) -> str:
    known = json.loads((folder / "ids.json").read_text(encoding="utf-8")) if (folder / "ids.json").exists() else {}
    tags = {name: known.get(value, value) for name, value in operation["tags"].items()}
    run = client.create_run(operation["experiment_id"], operation["start_time"], tags, operation["name"])
    return str(run.info.run_id)


def _remember(folder: Path, local: str, run_id: str) -> None:
    file = folder / "ids.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**known, local: run_id}), encoding="utf-8")


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


def _write_lines(file: Path, operations: list[Operation]) -> None:
    scratch = file.with_suffix(".part")
    scratch.write_text("".join(json.dumps(item) + "\n" for item in operations), encoding="utf-8")
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

    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
