"""Commands about the project itself: its profile, its settings, its MLflow page."""

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from pydantic import BaseModel

from supcam import tracking
from supcam.cli.server import serve
from supcam.cli.tables import print_table
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.settings import PROFILES, Settings, allowed_values, load_settings, profile_path


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
    typer.echo(f"MLflow page: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)]
    location = tracking.artifact_location(root, uri)
    if location:
        command += ["--default-artifact-root", location]
    raise typer.Exit(serve(command, root))


def settings() -> None:
    """List every setting with its value in params.yaml, default and allowed range."""
    current = load_settings(tracking.project_root() / "params.yaml").model_dump(mode="json", by_alias=True)
    rows = []
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        name = field.alias or section
        for key, schema in model.model_json_schema()["properties"].items():
            value, default = current[name][key], schema.get("default")
            shown = "" if default is None or value == default else str(default)
            rows.append((f"{name}.{key}", str(value), shown, allowed_values(schema)))
    print_table(pd.DataFrame(rows, columns=["setting", "value", "default", "allowed"]))
