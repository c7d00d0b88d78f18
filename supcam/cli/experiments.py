"""Commands about tracked runs: upload what a lost server missed, rebuild a run."""

from pathlib import Path
from typing import Annotated

import typer

from supcam import tracking


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    app.command("upload")(upload)
    app.command("reproduce")(reproduce)


def upload() -> None:
    """Send what runs wrote on this disk while the tracking server was lost."""
    sent = tracking.upload_pending(tracking.project_root())
    typer.echo(f"{len(sent)} runs sent" + (f": {', '.join(sent)}" if sent else "; nothing was waiting"))


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
    for difference in plan.execute(root):
        typer.echo(f"{difference.name}: {'equal' if difference.equal else difference.detail}")
