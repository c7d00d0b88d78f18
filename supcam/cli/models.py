"""Commands about models: predict, explain, route, pull, and the registry."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from supcam import tracking
from supcam.cli.options import Page
from supcam.cli.tables import print_table
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash, read_manifest
from supcam.errors import GateRefused, UsageError
from supcam.files import write_text
from supcam.registry import client, promotion
from supcam.registry import explain as explanation
from supcam.registry import history as record
from supcam.registry.client import PRODUCTION_URI, load_production
from supcam.registry.evidence import ProjectCrops
from supcam.registry.store import PRODUCTION, Registry
from supcam.serving.gate import WITHOUT_TYPE
from supcam.settings import PromoteSettings, load_settings

Paths = Annotated[list[Path], typer.Argument(help="Images, and folders that are searched recursively.")]
Model = Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a pulled folder.")]


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    for command in (predict, explain, route, pull, models, promote, rollback, history, diff):
        app.command(command.__name__)(command)


def predict(
    paths: Paths,
    model: Model = PRODUCTION_URI,
    output: Annotated[
        Path | None, typer.Option(help="CSV file with all columns, - for standard output; default: a short table.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many images, spread evenly.", min=1)] = None,
    page: Page = None,
) -> None:
    """Print the type of each crop. A bad image is a row with an error; the exit code is then 1.

    What is no crop has no type; the column reason says why, and why other crops need review.
    """
    piped = output == Path("-")
    if output is not None and not piped:
        _refuse_output(output)
    predictor = load_production(model)
    answers = client.predict_files(predictor, paths, page=page, limit=limit)
    frame = answers.frame
    table = frame.to_csv(index=False, lineterminator="\n")
    if piped:
        typer.echo(table.encode(), nl=False)  # UTF-8, whatever the terminal's own encoding
        typer.echo(answers.summary(), err=True)
    elif output is not None:
        write_text(output, table)
        typer.echo(f"{answers.summary()}: {output}")
    else:
        # What fits into a line, paths below the working directory in their short form.
        paths_shown = [path.removeprefix(f"{Path.cwd()}{os.sep}") for path in frame["path"]]
        confidence = [f"{value:.3f}" if pd.notna(value) else "" for value in frame["confidence"]]
        shown = {"path": paths_shown, "type": frame["type"], "confidence": confidence, "reason": frame["reason"]}
        print_table(pd.DataFrame(shown))
        typer.echo(answers.summary())
    for error in frame.loc[frame["error"] != "", "error"]:
        typer.echo(f"error: {error}", err=True)  # it begins with the path
    raise typer.Exit(1 if answers.failed else 0)


def explain(
    crop: Annotated[Path, typer.Argument(help="Image of one crop.")],
    output: Annotated[Path, typer.Option(help="PNG file.")] = Path("explanation.png"),
    model: Model = PRODUCTION_URI,
) -> None:
    """Draw why a crop got its type: the places on which the answer depends, and the most similar training crops."""
    if not crop.is_file():
        raise UsageError(f"{crop} is not a file; name the image of one crop.")
    _refuse_output(output)
    package = load_production(model).package
    answer = explanation.explain(crop, package, _training_crops(package))
    explanation.draw(answer, output)
    alone = "" if answer.neighbours else "; no crop that trained this model is available, so no similar one is shown"
    found = f"{answer.type.label}, probability {answer.probabilities.max():.3f}"
    if answer.reason:
        no_crop = WITHOUT_TYPE.intersection(answer.reason.split("; "))
        found = f"no type ({answer.reason})" if no_crop else f"{found} (needs review: {answer.reason})"
    typer.echo(f"{crop}: {found}: {output}{alone}")


def _training_crops(package: Path) -> CropSet | None:
    try:
        data = tracking.project_root() / "data"
    except UsageError:
        return None  # outside a project there are no crops to compare with
    manifest = data / "manifest.csv"
    return explanation.training_crops(package, read_manifest(manifest), data) if manifest.is_file() else None


def _refuse_output(output: Path) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output} is a folder or lies in none; name a file in an existing folder.")


def route(
    paths: Paths,
    into: Annotated[Path, typer.Option(help="New folder: one folder per type, doubtful crops in review/.")],
    model: Model = PRODUCTION_URI,
    page: Page = None,
) -> None:
    """Sort crops into a folder per type for downstream segmentation."""
    routed = client.route(load_production(model), paths, into, page=page)
    counts = ", ".join(f"{count} {name}" for name, count in routed.counts.items())
    typer.echo(f"{into}: {counts}; {routed.summary()}")
    raise typer.Exit(1 if routed.failed else 0)


def pull(
    into: Annotated[Path, typer.Option(help="Folder for the model's files.")],
    alias: Annotated[str, typer.Option(help="production, previous or candidate.")] = "production",
) -> None:
    """Fetch a model as plain, hash-checked files for use without network."""
    client.pull(into, alias, name=_name())
    typer.echo(f"{alias} is now in {into}; use it with: supcam predict PATH --model {into}")


def models() -> None:
    """List the registered versions with their aliases, and the test metrics of the one in production."""
    registry = _registry()
    print_table(record.models(registry))
    if PRODUCTION in registry.aliases():
        print_table(_metrics(load_production(f"models:/{registry.name}@{PRODUCTION}").card))


def _metrics(card: Mapping[str, Any]) -> pd.DataFrame:
    metrics = {**card["metrics"], **{f"sensitivity, {label}": row for label, row in card["sensitivity"].items()}}
    rows = []
    for name, metric in metrics.items():
        value = f"{metric['value']:.4f}" if metric["crops"] else "no test crop"
        interval = f"{metric['low']:.4f} - {metric['high']:.4f}" if metric["low"] is not None else ""
        rows.append((name, value, interval, metric["crops"]))
    return pd.DataFrame(rows, columns=["production, test crops", "value", "interval", "crops"])


def promote(
    run_id: Annotated[
        str | None, typer.Argument(help="Run of a candidate; default: the best of the present data.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(help="Reason to promote in spite of the metrics; it is recorded.")
    ] = None,
) -> None:
    """Take a candidate through the gate into production. Exit code 3: refused."""
    if force is not None and not force.strip():
        raise UsageError("--force = '' has no reason; give one that says why the metrics do not count, and run again.")
    root = tracking.project_root()
    settings = load_settings(root / "params.yaml").promote
    manifest = read_manifest(root / "data" / "manifest.csv")
    registry = _registry()
    version = promotion.best_candidate(registry, settings.figure, run_id=run_id, data_hash=manifest_hash(manifest))
    decision = promotion.promote(
        tracking_uri=registry.uri,
        settings=settings,
        candidate=version.number,
        crops=ProjectCrops(_divided(manifest, root), root / "data"),
        experiment=tracking.in_dvc_experiment(root),
        force=force or "",
    )
    if decision.outcome == "refused":
        raise GateRefused(decision.refusal)
    typer.echo(f"version {version.number}: {decision.outcome} ({decision.reason})")


def _divided(manifest: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The manifest with the parts of the project's split, where that is of the same data."""
    path = root / "outputs" / "split" / "manifest.csv"
    divided = read_manifest(path) if path.is_file() else manifest
    return divided if manifest_hash(divided) == manifest_hash(manifest) else manifest


def rollback(
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    to: Annotated[int | None, typer.Option(help="A version that was in production; default: previous.", min=1)] = None,
) -> None:
    """Put the version before back into production."""
    event = record.rollback(_registry(), reason, to=to)
    typer.echo(f"production is version {event['version']} again, it was version {event['from']}")


def history() -> None:
    """Show who was production, when, from which version, why, newest first."""
    print_table(record.history(_registry()))


def diff(
    first: Annotated[str, typer.Argument(help="Alias or version.")],
    second: Annotated[str, typer.Argument(help="Alias or version.")],
) -> None:
    """Compare the cards of two versions: metrics, data, settings."""
    print_table(record.diff(_registry(), first, second))


def _registry() -> Registry:
    return Registry(client.default_uri(), _name())


def _name() -> str:
    try:
        return load_settings(tracking.project_root() / "params.yaml").promote.model_name
    except UsageError:
        return PromoteSettings().model_name  # outside a project, on a store that the environment names
