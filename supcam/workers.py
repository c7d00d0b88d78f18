"""Processes that work for this one, and that end with it, however it ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

GOODBYE = 10.0  # seconds that a worker has to give back what it holds


def worker_pool(count: int, start: Callable[..., None] | None = None, *shared: Any) -> ProcessPoolExecutor:
    """``count`` worker processes, each of which calls ``start(*shared)`` once, before any work."""
    # Not forked: the parent may hold threads (trackers, torch, database drivers) whose locks a fork copies as they are.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, spawn, initializer=_start, initargs=(start, shared))


@contextmanager
def ended_on_error() -> Iterator[None]:
    """End the processes that the block started when it fails: asked first, killed after ``GOODBYE``."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        started = set(multiprocessing.active_children()) - others
        for process in started:
            process.terminate()
        for process in started:
            process.join(GOODBYE)
            if process.is_alive():
                process.kill()
        raise


def _start(start: Callable[..., None] | None, shared: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    if start is not None:
        start(*shared)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GOODBYE)
        os._exit(128 + signal.SIGTERM)  # the main thread is in a long computation, or waits for a storage that is gone
