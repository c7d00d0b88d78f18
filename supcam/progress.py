"""How work that takes a while reports how far it is, and the bar that shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Bar

Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""


@contextmanager
def progress_bar(name: str, total: int | None = None) -> Iterator[Progress]:
    """A bar on standard error, gone when the work is done; ``total`` where it is known before the first report."""
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
