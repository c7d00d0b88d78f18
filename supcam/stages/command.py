"""The command line of a stage script: options, exit codes, and errors without a traceback."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from supcam import tracking
from supcam.errors import SupcamError, explained
from supcam.settings import PROFILES
from supcam.stages.stage import Work, execute
from supcam.stages.workspace import Workspace, open_workspace

EXTRA_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
OwnFolder = Annotated[bool, typer.Option(help="Write below runs/ and leave what DVC tracks untouched.")]
Profile = Annotated[str, typer.Option(help=f"{', '.join(PROFILES)}; empty: params.yaml as it is.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; empty: as the settings say.")]
FromRun = Annotated[str, typer.Option(help="Take upstream outputs from this run; empty: the present DVC outputs.")]


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors that users cause into one line on stderr and their exit code."""
    try:
        yield
    except (SupcamError, OSError) as error:
        shown = explained(error)
        Console(stderr=True).print(f"error: {shown}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(shown.exit_code)


def main(name: str, work: Work) -> None:
    """Entry point of a stage script. Ends with the exit code of the design; a user's mistake shows no traceback."""
    text = sys.modules[work.__module__].__doc__ or name
    command_line(name, text, lambda workspace: execute(name, work, workspace), own_folder_unless_asked=False)


def command_line(
    name: str, text: str, action: Callable[[Workspace], None], *, own_folder_unless_asked: bool = True
) -> None:
    """Run ``action`` in the workspace that the options of the command line describe; ``text`` is its help."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=text.strip(), context_settings=EXTRA_OPTIONS)
    def command(
        context: typer.Context,
        own_folder: OwnFolder = own_folder_unless_asked,
        profile: Profile = "",
        device: Device = "",
        from_run: FromRun = "",
    ) -> None:
        root = tracking.project_root()
        action(open_workspace(root, name, own_folder, profile, device, from_run, context.args))

    with exit_codes():
        app()
