"""Commands about the project itself: its profile, its settings, its MLflow page."""

import json
import os
import socket
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from supcam import tracking
from supcam.cli.described import described_settings
from supcam.cli.server import serve
from supcam.cli.tables import AsJson, print_table
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.settings import PROFILES, load_settings, profile_path


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    app.command("profile")(profile)
    app.command("settings")(settings)
    app.command("ui")(ui)


def profile(
    name: Annotated[str, typer.Argument(help=", ".join(PROFILES))],
    replace: Annotated[bool, typer.Option(help="Overwrite settings that you changed in params.yaml.")] = False,
) -> None:
    """Switch params.yaml to a profile; the change shows in git diff."""
    target = tracking.project_root() / "params.yaml"
    chosen = profile_path(name).read_text(encoding="utf-8")
    if target.is_file() and not replace and not _is_a_profile(target):
        raise UsageError(
            f"{target} holds changes of your own, which profile {name!r} would overwrite. "
            "Commit them and run again with --replace."
        )
    write_text(target, chosen)
    settings = load_settings(target)
    typer.echo(
        f"params.yaml is now profile {name}: {settings.model.encoder}, {settings.input.size} px, "
        f"queue {settings.pretrain.queue_size}. See: git diff params.yaml"
    )


def _is_a_profile(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return any(profile_path(name).read_text(encoding="utf-8") == text for name in PROFILES)


def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow page on the project's store."""
    root = tracking.project_root()
    uri = tracking.tracking_uri(root)
    if uri.startswith("http"):  # a server shows its page itself
        typer.echo(f"MLflow page: {uri}")
        return
    _require_free(port)
    typer.echo(f"MLflow page: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    # One worker and no queue of jobs: the page is for one person, and a busy machine would start late workers again and
    # again, which makes it busier.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", uri, "--port", str(port)]
    location = tracking.artifact_location(root, uri)
    if location:
        command += ["--default-artifact-root", location]
    raise typer.Exit(serve(command, root))


def _require_free(port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just closed is free
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(
                f"port {port} is taken by another program. Name a free one: supcam ui --port {port + 1}"
            ) from None


def settings(as_json: AsJson = False) -> None:
    """List every setting with its value, default and range; docs/reference/settings.md says what each means."""
    current = load_settings(tracking.project_root() / "params.yaml").model_dump(mode="json", by_alias=True)
    rows = []
    for setting in described_settings():
        value = reduce(getitem, setting.name.split("."), current)
        rows.append({"setting": setting.name, "value": value, **setting._asdict()})
    if as_json:
        typer.echo(json.dumps([{name: row[name] for name in row if name != "name"} for row in rows], indent=1))
        return
    for row in rows:
        row["default"] = "" if row["default"] in (row["value"], None) else row["default"]
    print_table(pd.DataFrame(rows)[["setting", "value", "default", "allowed"]].astype(str))
