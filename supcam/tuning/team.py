"""The worker processes of a study on this machine: started, watched, replaced, and ended with their parent."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from supcam.errors import SupcamError, UsageError
from supcam.tuning.worker import WorkerTask, work

_RESTARTS_PER_WORKER = 3
_GOODBYE = 10.0  # seconds that a worker has to give its trial back


class Team:
    """Worker processes; one that is killed is replaced, one that reports an error ends the study."""

    def __init__(self, task: WorkerTask, workers: int) -> None:
        # Spawned, not forked: torch and the database driver do not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._task, self._workers = task, workers
        self._running: dict[SpawnProcess, Connection] = {}
        self._restarts = 0

    def work(self) -> None:
        """Return when every worker ended well."""
        try:
            for _ in range(self._workers):
                self._start()
            while self._running:
                wait([process.sentinel for process in self._running], timeout=1.0)
                for process in [item for item in self._running if not item.is_alive()]:
                    self._ended(process)
        finally:
            self._stop()

    def _start(self) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work_and_report, args=(self._task, sender), name="tune-worker")
        process.start()
        sender.close()
        self._running[process] = receiver

    def _ended(self, process: SpawnProcess) -> None:
        with self._running.pop(process) as receiver:
            message = None
            with contextlib.suppress(EOFError):  # killed before it said anything
                # Only if there is something: a process that the worker left behind may hold the pipe open.
                message = receiver.recv() if receiver.poll() else None
        process.join()
        if message is not None:
            error, text = message
            raise error(text)
        if process.exitcode:
            self._replace(process.exitcode)

    def _replace(self, code: int) -> None:
        self._restarts += 1
        if self._restarts > _RESTARTS_PER_WORKER * self._workers:
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise SupcamError(
                f"workers of the study died {self._restarts} times, the last with {reason}. "
                "Finished trials are kept. Lower tune.workers (memory is the usual cause) and run again to resume."
            )
        self._start()

    def _stop(self) -> None:
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + _GOODBYE
        for process, receiver in self._running.items():
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            receiver.close()


def _work_and_report(task: WorkerTask, sender: Connection) -> None:
    """Body of a worker process: an error of ours goes to the parent in words, not as a traceback."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    try:
        work(task)
    except SupcamError as error:
        # As its base class: errors that are made of several parts cannot be unpickled.
        sender.send((UsageError if isinstance(error, UsageError) else SupcamError, str(error)))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, then give the trial back and end as well."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GOODBYE)
    os._exit(128 + signal.SIGTERM)  # the main thread is in a long computation, or waits for a storage that is gone
