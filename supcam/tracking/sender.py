"""What a run and the runs below it send to the store, in order; while the store is away, it waits in memory."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from supcam.tracking.trouble import shown

_INTERVAL = 2.0  # seconds between two sendings of buffered metrics
_RETRY_AFTER = 10.0  # seconds before a store that was away is asked again
_LAST_DELAYS = (0.0, 0.5, 2.0)  # seconds before each of the last tries at the end of a run
_CALLERS_FAULT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "BAD_REQUEST",
}

Operation = Callable[[], object]
Answer = TypeVar("Answer")
Row = tuple[str, float, int, int]  # name, value, time in milliseconds, step


class Sender:
    """Carries out operations on the store, in order; metrics are collected and sent in batches by a thread.

    A store that goes away holds nothing up: what it did not take waits in memory and is sent once it answers. What
    still waits at the end is lost with the process; checkpoints hold the same history, so that running the stage
    again sends it. Waiting spares that second run where a server is only restarted, and keeps trials that end in the
    meantime from staying open.

    MLflow's own queue (``log_batch(..., synchronous=False)``) does not serve: it drops a batch that fails, and its
    error shows only in a future that every call would have to keep.

    Args:
        client: An ``MlflowClient``; None drops everything.
        uri: Address of the store, for the warning.

    Errors that are the caller's (a bad name, a changed parameter) are raised; those of a metric at the next call.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self._client, self._uri = client, uri
        self._metrics: dict[str, list[Row]] = {}
        self._waiting: deque[Operation] = deque()
        self._filling = threading.Lock()  # short: training waits for it, never for the store
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._late_error: Exception | None = None
        self._away_until = 0.0
        self._warned = False

    def log(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Collect metrics of a run with the present time; returns at once."""
        if self._client is None:
            return
        now = int(time.time() * 1000)
        self._raise_late_error()
        with self._filling:
            rows = self._metrics.setdefault(run_id, [])
            rows += [(name, float(value), now, int(step)) for name, value in values.items()]
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_regularly, daemon=True, name="tracking")
                self._thread.start()

    def send(self, operation: Operation) -> None:
        """Carry out one operation, after all that came before it; while the store is away, it waits."""
        if self._client is None:
            return
        self._raise_late_error()
        with self._sending:
            self._collect_metrics()
            self._waiting.append(operation)
            self._deliver()

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """What the store answers; None while it is away."""
        if self._client is None or time.monotonic() < self._away_until:
            return None
        try:
            return question()
        except Exception as error:
            self._note_away(error)
            return None

    def flush(self) -> None:
        """Send what waits, metrics included."""
        with self._sending:
            self._collect_metrics()
            self._deliver()

    def close(self) -> None:
        """Send what is left, for the last time, and stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for delay in _LAST_DELAYS:
            time.sleep(delay)
            self._away_until = 0.0
            while self._flush_or_keep_error():
                pass
            if not self._waiting:
                break
        self._raise_late_error()

    def _flush_or_keep_error(self) -> bool:
        """Whether a refused operation stopped the sending: what follows it still has to go out."""
        try:
            self.flush()
        except Exception as error:
            self._late_error = self._late_error or error
            return bool(self._waiting)
        return False

    def _send_regularly(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                self.flush()
            except Exception as error:  # raised where the caller sees it, not in a thread
                self._late_error = error

    def _raise_late_error(self) -> None:
        error, self._late_error = self._late_error, None
        if error is not None:
            raise error

    def _collect_metrics(self) -> None:
        with self._filling:
            collected, self._metrics = self._metrics, {}
        for run_id, rows in collected.items():
            self._waiting += [partial(self._log_batch, run_id, chunk) for chunk in chunks(rows, 1000)]

    def _log_batch(self, run_id: str, rows: list[Row]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(run_id, metrics=[Metric(*row) for row in rows])

    def _deliver(self) -> None:
        if time.monotonic() < self._away_until:
            return
        while self._waiting:
            try:
                self._waiting[0]()
            except Exception as error:
                if _is_callers_fault(error):
                    self._waiting.popleft()  # it would fail again, and hold up all that follows
                self._note_away(error)
                return
            self._waiting.popleft()

    def _note_away(self, error: Exception) -> None:
        if _is_callers_fault(error):
            raise error
        self._away_until = time.monotonic() + _RETRY_AFTER
        if not self._warned:
            self._warned = True
            cause = str(error).partition("\n")[0]
            print(
                f"warning: tracking store {shown(self._uri)} is away: {cause}. The work goes on; what is logged is "
                "sent once the store answers. If it stays away, start it and run the stage again: finished work is not "
                "repeated, only sent.",
                file=sys.stderr,
                flush=True,
            )


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Parts of at most ``size`` items: MLflow takes 1000 metrics, 100 parameters or 100 tags in one batch."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _is_callers_fault(error: Exception) -> bool:
    code = getattr(error, "error_code", None)
    return code in _CALLERS_FAULT or isinstance(error, (TypeError, ValueError, FileNotFoundError))
