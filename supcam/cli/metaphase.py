"""Command about whole pictures: metaphase."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from supcam.cli.options import Model, Page
from supcam.cli.tables import print_table
from supcam.cluster_type import TYPE_LABELS
from supcam.registry.client import PRODUCTION_URI, load_production


def add_commands(app: typer.Typer) -> None:
    """Add it to the command."""
    app.command("metaphase")(metaphase)


def metaphase(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures of whole metaphases, and folders of them.")],
    into: Annotated[Path, typer.Option(help="New folder: a page, drawings, crops by type, tables, COCO, GeoJSON.")],
    model: Model = PRODUCTION_URI,
    page: Page = None,
) -> None:
    """Cut whole metaphases into chromosomes and clusters, and type each of them.

    Pictures without a metaphase are listed with the reason. The exit code is 1 when a picture could not be read.
    """
    from supcam.metaphase.folder import write_metaphases

    written = write_metaphases(load_production(model), pictures, into, page=page)
    shown = written.pictures[["picture", "objects", *TYPE_LABELS, "needs_review", "reason"]]
    shown = pd.DataFrame(shown[written.pictures["error"] == ""])
    print_table(shown if shown["reason"].any() else shown.drop(columns="reason"))
    typer.echo(f"{into}: {written.summary()}")
    for error in written.pictures.loc[written.pictures["error"] != "", "error"]:
        typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1 if written.failed else 0)
