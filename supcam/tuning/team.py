"""The worker processes of a study on this machine: started, replaced where one is killed, ended with their parent."""

import os
import signal
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from supcam.errors import SupcamError, UsageError
from supcam.tuning.worker import WorkerTask, work
from supcam.workers import ended_on_error, worker_pool

_RESTARTS_PER_WORKER = 3


def work_together(task: WorkerTask, workers: int) -> None:
    """Work in so many processes, until every trial is decided.

    Raises:
        UsageError: for a mistake of the user that would fail every trial.
        SupcamError: when the storage fails, or workers keep being killed.
    """
    # A pool for each: one that is killed breaks its pool, and shall not end the trials of the others.
    running: dict[Future[None], ProcessPoolExecutor] = {}
    waiting_to_start, killed = workers, 0
    with ended_on_error():
        while waiting_to_start or running:
            for _ in range(waiting_to_start):
                pool = worker_pool(1)
                running[pool.submit(_work, task)] = pool
            waiting_to_start = 0
            ended = next(as_completed(running))
            running.pop(ended).shutdown()
            try:
                ended.result()
            except BrokenProcessPool:
                killed += 1
                waiting_to_start = 1
            if killed > _RESTARTS_PER_WORKER * workers:
                raise SupcamError(
                    f"workers of the study were killed {killed} times. Finished trials are kept. "
                    "Lower tune.workers (memory is the usual cause) and run again to resume."
                )


def _work(task: WorkerTask) -> None:
    """Body of a worker process."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit())  # unwinds the stack: the trial is given back
    try:
        work(task)
    except SupcamError as error:
        # As its base class: errors that are made of several parts cannot be unpickled.
        raise (UsageError if isinstance(error, UsageError) else SupcamError)(str(error)) from None
    except (KeyboardInterrupt, SystemExit):
        os._exit(128 + signal.SIGTERM)  # the pool would send it to the parent, and wait for more work
