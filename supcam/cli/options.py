"""Options that several commands share."""

import re
from pathlib import Path
from typing import Annotated

import typer

from supcam import tracking
from supcam.errors import UsageError
from supcam.settings import Settings, load_settings

TypeMap = Annotated[
    str | None,
    typer.Option("--map", help="Types of folders or of names in the table: 0=instance,single=instance,1=touching,..."),
]
CasePattern = Annotated[
    str | None, typer.Option(help="Regular expression that finds the case in a path, by a group (?P<case>...).")
]
Encoding = Annotated[
    str | None, typer.Option(help="Encoding of tables and of names in zips that are not UTF-8: gbk, big5, cp932, ...")
]
Paths = Annotated[list[Path], typer.Argument(help="Images, and folders that are searched recursively.")]
Model = Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a pulled folder.")]
Page = Annotated[int | None, typer.Option(help="Plane of files that hold a stack, from 1.", min=1)]


def project_settings() -> Settings:
    """Settings of the project; the defaults outside of one."""
    try:
        return load_settings(tracking.project_root() / "params.yaml")
    except UsageError:
        return Settings()


def read_map(text: str | None) -> dict[str, str] | None:
    """Folder to type of ``--map``; None without it.

    Raises:
        UsageError: for text of another form, or a folder named twice.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[^=,]+=[^=,]+(,[^=,]+=[^=,]+)*", text):
        raise UsageError(f"--map {text!r} is not of the form 0=instance,1=touching,2=overlapping. Correct it.")
    pairs = [(folder, kind) for folder, _, kind in (pair.partition("=") for pair in text.split(","))]
    folders = [folder for folder, _ in pairs]
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if twice:
        raise UsageError(f"--map {text!r} names the folder {', '.join(twice)} twice. Keep one type for it.")
    return dict(pairs)
