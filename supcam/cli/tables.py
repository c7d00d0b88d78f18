"""Tables for the terminal."""

import pandas as pd
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_WIDTH = 120


def print_table(frame: pd.DataFrame) -> None:
    """Print a frame, wide enough to be read also where the output goes into a file."""
    # Text, not str: brackets in a file name are not markup.
    table = Table(*(Column(Text(str(name))) for name in frame.columns))
    for row in frame.astype(object).itertuples(index=False):
        table.add_row(*(Text("" if pd.isna(value) else str(value)) for value in row))
    console = Console()
    console.width = max(console.width, _WIDTH)
    console.print(table)
