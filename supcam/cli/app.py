"""Entry point of the `supcam` command: its groups of commands, and how errors end it."""

import io
import sys

import typer
from rich.console import Console

from supcam import tracking
from supcam.cli import data, evaluation, experiments, models, monitoring, project, review
from supcam.errors import MissingExtra, SupcamError, explained

# What only the extra "train" brings.
TRAINING_PACKAGES = frozenset({
    "torch", "torchvision", "lightning", "torchmetrics", "dvc", "optuna", "great_expectations", "onnx", "onnxscript",
    "safetensors", "scipy", "skimage", "sklearn", "matplotlib", "ruamel", "pathspec",
})  # fmt: skip

app = typer.Typer(
    help="Tell what type of chromosome cluster a crop shows: data, pipeline, registry, predictions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (data, review, models, evaluation, monitoring, experiments, project):
    group.add_commands(app)


def main() -> None:
    """Run the command; a mistake of the user ends with one line on stderr and the exit code of the design."""
    tracking.quiet()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding gets \u6c49 for a name, not an end
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (SupcamError, OSError) as error:
        _end(explained(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in TRAINING_PACKAGES:
            raise
        _end(MissingExtra("this command"))


def _end(error: SupcamError) -> None:
    Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(error.exit_code)
