"""Worker processes for composition: each holds what it composes from once, and none outlives the process it serves."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from supcam.errors import SupcamError
from supcam.workers import worker_pool

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers(Generic[Shared]):
    """``count`` processes that call functions of ``shared``, which each receives once, and of one job a call.

    Functions and jobs must be picklable. Use it as a context manager, or call ``close``.
    """

    def __init__(self, shared: Shared, count: int) -> None:
        self._pool = worker_pool(count, _start, shared)

    def submit(self, function: Callable[[Shared, Job], Result], jobs: Iterable[Job]) -> deque[Future[Result]]:
        """Start on the jobs; ``results`` waits for them."""
        try:
            return deque(self._pool.submit(_call, function, job) for job in jobs)
        except BrokenProcessPool:
            raise _killed() from None

    def close(self) -> None:
        """End the processes; jobs that none has begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Workers[Shared]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def results(waiting: deque[Future[Result]]) -> Iterator[Result]:
    """Results in the order of their jobs; each is taken out of ``waiting``, so that it can be freed once it is used.

    Raises:
        SupcamError: when a job failed, or a process was killed.
    """
    try:
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise _killed() from None


def _killed() -> SupcamError:
    return SupcamError(
        "a composing process was ended from outside, most likely for want of memory. "
        "Set compose.workers lower and run it again."
    )


_shared: Any = None


def _start(shared: object) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers


def _call(function: Callable[[Any, Job], Result], job: Job) -> Result:
    try:
        return function(_shared, job)
    except Exception as error:
        # Only its text: an exception of another class may not survive the way between processes.
        raise SupcamError(
            f"composition failed in a worker process: {type(error).__name__}: {error}. "
            "Set compose.workers to 1 and run it again to see where."
        ) from error
