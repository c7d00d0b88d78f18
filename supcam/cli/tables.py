"""Tables for the terminal, and the same as JSON for scripts."""

import json
from typing import Annotated

import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_WIDTH = 120  # of a file or pipe, which has no width

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per row, for scripts.")]


def print_table(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a frame in the width of the terminal, numbers to the right; wide where the output goes into a file."""
    # Text, not str: brackets in a file name are not markup.
    columns = (
        Column(Text(str(name)), justify="right" if pd.api.types.is_numeric_dtype(kind) else "left")
        for name, kind in frame.dtypes.items()
    )
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in frame.astype(object).itertuples(index=False):
        table.add_row(*(Text("" if pd.isna(value) else str(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(table)
    console.print()


def print_json(frame: pd.DataFrame) -> None:
    """Print a frame as a list of objects; an empty cell is null."""
    rows = json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
