"""How work that takes a while reports how far it is: a bar on a terminal, a line every minute anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""

_EVERY = 60.0  # seconds between two lines where there is no terminal


def new_bar(*, hidden: bool = False) -> Bar:
    """A bar on standard error that a terminal of 80 columns shows whole: count and time left come first."""
    columns = (
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
    )
    return Bar(*columns, console=Console(stderr=True), transient=True, disable=hidden)


@contextmanager
def progress_bar(name: str, total: int | None = None) -> Iterator[Progress]:
    """A bar, gone when the work is done, or lines; ``total`` where it is known before the first report."""
    if not Console(stderr=True).is_terminal:
        yield ProgressLines(name)
        return
    with new_bar() as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class ProgressLines:
    """A line on standard error every minute: how much is done and about how long the rest takes.

    A log or a build server that hears nothing for minutes takes the work for dead.
    """

    def __init__(self, name: str, every: float = _EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._every, self._clock = name, every, clock
        self._last = clock()
        self._first: tuple[float, int] | None = None  # time is estimated from here, without the start of workers

    def __call__(self, done: int, total: int) -> None:
        """Report; most calls print nothing."""
        now = self._clock()
        start, before = self._first = self._first or (now, done)
        if now - self._last < self._every:
            return
        self._last = now
        left = (now - start) * (total - done) / max(done - before, 1)
        rest = f", about {left / 60:.0f} min left" if done > before else ""
        Console(stderr=True).print(f"{self._name}: {done} of {total}{rest}", highlight=False)
