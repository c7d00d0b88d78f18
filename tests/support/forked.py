"""Processes of their own, to be killed or raced, forked from a server that has the imports done."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any


def server(module: str) -> ForkServerContext:
    """Starts processes that have ``module`` imported; only the first module asked for is imported once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def in_process(target: Callable[..., object], *arguments: Any) -> int | None:
    """Exit code of ``target``, a function of a module, in a process of its own; -9 when it was killed."""
    process = server(target.__module__).Process(target=target, args=arguments)
    process.start()
    process.join(timeout=600)
    return process.exitcode
