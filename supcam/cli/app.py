"""Entry point of the `supcam` command: its groups of commands, and how errors end it."""

import io
import sys
from importlib import metadata
from typing import Annotated

import typer

from supcam import tracking
from supcam.cli import data, evaluation, experiments, metaphase, models, monitoring, project, review
from supcam.errors import MissingExtra
from supcam.stages.command import exit_codes

# What only the extra "train" brings.
TRAINING_PACKAGES = frozenset({
    "torch", "torchvision", "lightning", "torchmetrics", "dvc", "optuna", "great_expectations", "onnx", "onnxscript",
    "safetensors", "sklearn", "matplotlib", "ruamel", "pathspec", "pycocotools", "shapely",
})  # fmt: skip

app = typer.Typer(
    help="Find out what type of chromosome cluster a crop shows: data, pipeline, registry, predictions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"supcam {metadata.version('supcam')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


for group in (data, review, models, metaphase, evaluation, monitoring, experiments, project):
    group.add_commands(app)


def main() -> None:
    """Run the command; a mistake of the user ends with one line on stderr and the exit code of the design."""
    tracking.quiet()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding gets \u6c49 for a name, not an end
            stream.reconfigure(errors="backslashreplace")
    with exit_codes():
        try:
            app()
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in TRAINING_PACKAGES:
                raise
            raise MissingExtra("this command") from None
