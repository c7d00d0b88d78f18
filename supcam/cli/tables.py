"""Tables for the terminal, and the same as JSON for scripts."""

import json
import os
import re
from typing import Annotated

import pandas as pd
import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_WIDTH = 120  # of a file or pipe, which has no width of its own
_PART = re.compile("([-_])")  # after it a heading may go on in the next line

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per row, for scripts.")]


def print_table(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a frame in the width of the terminal or of ``COLUMNS``, numbers to the right; nothing is cut off.

    Text that is too long goes on in the next line, words in one piece where they fit. A file gets 120 columns.
    """
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    cells = frame.astype(object).map(lambda value: "" if pd.isna(value) else str(value))
    names = [str(name) for name in frame]
    # Text, not str: brackets in a file name are not markup.
    columns = (
        Column(
            Text(name if len(name) <= width else _PART.sub(r"\1\n", name)),
            justify="right" if pd.api.types.is_numeric_dtype(kind) else "left",
            overflow="fold",
            width=width,
        )
        for name, kind, width in zip(names, frame.dtypes, _widths(names, cells, console.width), strict=True)
    )
    table = Table(
        *columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    for row in cells.itertuples(index=False):
        table.add_row(*map(Text, row))
    console.print(table)
    console.print()


def _widths(names: list[str], cells: pd.DataFrame, room: int) -> list[int]:
    """Width of each column: its longest word, less where that is too much; what room is left lets texts stay whole."""
    texts = [[name, *column] for name, (_, column) in zip(names, cells.items(), strict=True)]
    whole = [max(map(cell_len, column)) for column in texts]
    words = [max(map(cell_len, " ".join([_PART.sub(r"\1 ", name), *rest]).split()), default=1) for name, *rest in texts]
    room -= 2 * len(texts)  # the blanks between columns
    widths = words.copy()
    for least in (16, 8, 4, 1):  # few columns are broken, the widest first
        for index in sorted(range(len(words)), key=widths.__getitem__, reverse=True):
            widths[index] -= min(max(0, widths[index] - least), max(0, sum(widths) - room))
    for index in sorted(range(len(texts)), key=lambda index: whole[index] - widths[index]):
        widths[index] += max(0, min(whole[index] - widths[index], room - sum(widths)))
    return widths


def print_json(frame: pd.DataFrame) -> None:
    """Print a frame as a list of objects; an empty cell is null."""
    rows = json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
