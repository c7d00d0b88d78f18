"""Commands about tracked runs: search with many workers, rebuild a run."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from supcam import tracking


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    app.command("tune")(tune)
    app.command("reproduce")(reproduce)


def tune(
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine; default: tune.workers.", min=1)
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials in all, over all machines; default: tune.trials.")] = None,
    storage: Annotated[str | None, typer.Option(help="Address all machines share; default: tune.storage.")] = None,
    study: Annotated[str | None, typer.Option(help="Name of a study of your own; default: tune.study.")] = None,
) -> None:
    """Search margin and temperature on the present crops. Run it on as many machines as share the storage.

    Writes below runs/; the trials belong to the study of `dvc repro tune`, which then finds them done.
    """
    given = {"workers": workers, "trials": trials, "storage": storage, "study": study}
    options = [text for name, value in given.items() if value is not None for text in (f"--tune.{name}", str(value))]
    os.chdir(tracking.project_root())
    # In place of this process, so that Ctrl-C and SIGTERM reach the study and its exit code the caller.
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.tune", "--own-folder", *options])


def reproduce(
    run_id: Annotated[str, typer.Argument(help="Run of a stage.")],
    into: Annotated[Path | None, typer.Option(help="New folder; default: below runs/.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the commands and compare every output.")] = False,
) -> None:
    """Print, or run, the commands that rebuild a run. Exit code 3: it cannot be rebuilt, and why."""
    from supcam.tracking.reproduce import reproduction

    root = tracking.project_root()
    plan = reproduction(root, run_id, into or root / "runs" / f"reproduce-{run_id}")
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if not run:
        typer.echo(plan.text)
        return
    found = plan.execute(root)
    for difference in found:
        typer.echo(f"{difference.name}: {'equal' if difference.equal else difference.detail}")
    if not found:
        typer.echo(f"nothing to compare: run {plan.run_id} keeps no outputs of stage {plan.stage}. See {plan.folder}")
