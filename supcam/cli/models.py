"""Commands about models: predict, explain, route, pull, and the registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from supcam import tracking
from supcam.cli.tables import print_table
from supcam.errors import UsageError
from supcam.files import write_text
from supcam.registry.client import PRODUCTION_URI, default_uri, image_files, load_production, predict_files
from supcam.registry.client import pull as fetch
from supcam.registry.client import route as sort
from supcam.registry.store import PRODUCTION, Registry
from supcam.settings import PromoteSettings, load_settings

if TYPE_CHECKING:
    from supcam.data.crops import CropSet

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
) -> None:
    """Print the type of each crop. A bad image is a row with an error; the exit code is then 1."""
    piped = output == Path("-")
    if output is not None and not piped:
        _refuse_output(output)
    predictor = load_production(model)
    if limit is not None:
        files, _ = image_files(paths)
        paths = files[:: max(1, len(files) // limit)][:limit]
    answers = predict_files(predictor, paths)
    frame = answers.frame.drop(columns="needs_review", errors="ignore")
    table = frame.to_csv(index=False, lineterminator="\n")
    if piped:
        typer.echo(table, nl=False)
    elif output is not None:
        write_text(output, table)
        typer.echo(f"{len(frame)} images, {answers.failed} failed, {answers.ignored} other files ignored: {output}")
    else:
        print_table(_readable(frame))
    for row in frame[frame["error"] != ""].itertuples():
        typer.echo(f"error: {row.path}: {row.error}", err=True)
    raise typer.Exit(1 if answers.failed else 0)


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    shown = frame[["path", "type", "confidence"]].copy()
    here = Path.cwd()
    shown["path"] = [
        str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path for path in shown["path"]
    ]
    shown["confidence"] = [f"{value:.3f}" if pd.notna(value) else "" for value in shown["confidence"]]
    return shown.fillna("")


def explain(
    crop: Annotated[Path, typer.Argument(help="Image of one crop.")],
    output: Annotated[Path, typer.Option(help="PNG file.")] = Path("explanation.png"),
    model: Model = PRODUCTION_URI,
) -> None:
    """Draw why a crop got its type: the places on which the answer depends, and the most similar training crops."""
    from supcam.registry.explain import draw
    from supcam.registry.explain import explain as explained

    if not crop.is_file():
        raise UsageError(f"{crop} is not a file; name the image of one crop.")
    _refuse_output(output)
    package = load_production(model).package
    answer = explained(crop, package, _training_crops(package))
    draw(answer, output)
    alone = "" if answer.neighbours else "; no crop that trained this model is available, so no similar one is shown"
    typer.echo(f"{crop}: {answer.type.label}, probability {answer.probabilities.max():.3f}: {output}{alone}")


def _training_crops(package: Path) -> "CropSet | None":
    from supcam.data.manifest import read_manifest
    from supcam.registry.explain import training_crops

    try:
        data = tracking.project_root() / "data"
    except UsageError:
        return None  # outside a project there are no crops to compare with
    if not (data / "manifest.csv").is_file():
        return None
    crops = training_crops(package, read_manifest(data / "manifest.csv"), data)
    return crops if len(crops) else None


def _refuse_output(output: Path) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"--output {output} is a folder or lies in none; name a file in an existing folder.")


def route(
    paths: Paths,
    into: Annotated[Path, typer.Option(help="New folder: one folder per type, doubtful crops in review/.")],
    model: Model = PRODUCTION_URI,
) -> None:
    """Sort crops into a folder per type for downstream segmentation."""
    routed = sort(load_production(model), paths, into)
    counts = ", ".join(f"{count} {name}" for name, count in routed.counts.items())
    typer.echo(f"{into}: {counts}; {routed.predictions.ignored} other files ignored")
    raise typer.Exit(1 if routed.predictions.failed else 0)


def pull(
    into: Annotated[Path, typer.Option(help="Folder for the model's files.")],
    alias: Annotated[str, typer.Option(help="production, previous or candidate.")] = "production",
) -> None:
    """Fetch a model as plain, hash-checked files for use without network."""
    typer.echo(f"{alias} is now in {fetch(into, alias, name=_name())}; use it with: supcam predict PATH --model {into}")


def models() -> None:
    """List the registered versions with their aliases, and the test metrics of the one in production."""
    from supcam.registry.history import models as listed

    registry = _registry()
    print_table(listed(registry))
    if PRODUCTION in registry.aliases():
        print_table(_metrics(load_production(f"models:/{registry.name}@{PRODUCTION}").card))


def _metrics(card: Mapping[str, Any]) -> pd.DataFrame:
    metrics = {**card["metrics"], **{f"sensitivity, {label}": row for label, row in card["sensitivity"].items()}}
    rows = [
        {
            "production, test crops": name,
            "value": f"{metric['value']:.4f}" if metric["crops"] else "no test crop",
            "interval": f"{metric['low']:.4f} - {metric['high']:.4f}" if metric["low"] is not None else "",
            "crops": metric["crops"],
        }
        for name, metric in metrics.items()
    ]
    return pd.DataFrame(rows)


def promote(
    run_id: Annotated[
        str | None, typer.Argument(help="Run of a candidate; default: the best of the present data.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(help="Reason to promote in spite of the metrics; it is recorded.")
    ] = None,
) -> None:
    """Take a candidate through the gate into production. Exit code 3: refused."""
    from supcam.data.manifest import manifest_hash, read_manifest
    from supcam.registry.promotion import best_candidate, check_force, crops_by_hash, promote_or_raise

    root = tracking.project_root()
    settings = load_settings(root / "params.yaml").promote
    manifest = read_manifest(root / "data" / "manifest.csv")
    registry = _registry()
    version = best_candidate(
        registry, settings.figure, run_id=run_id, data_hash=None if run_id else manifest_hash(manifest)
    )
    decision = promote_or_raise(
        tracking_uri=registry.uri,
        settings=settings,
        candidate=version.number,
        crops=crops_by_hash(manifest, root / "data"),
        experiment=tracking.in_dvc_experiment(root),
        force=check_force(force),
    )
    typer.echo(f"version {version.number}: {decision.outcome} ({decision.reason})")


def rollback(
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    to: Annotated[int | None, typer.Option(help="A version that was in production; default: previous.", min=1)] = None,
) -> None:
    """Put the version before back into production."""
    from supcam.registry.history import rollback as go_back

    event = go_back(_registry(), reason, to=to)
    typer.echo(f"production is version {event['version']} again, it was version {event['from']}")


def history() -> None:
    """Show who was production, when, from which version, why, newest first."""
    from supcam.registry.history import history as record

    print_table(record(_registry()))


def diff(
    first: Annotated[str, typer.Argument(help="Alias or version.")],
    second: Annotated[str, typer.Argument(help="Alias or version.")],
) -> None:
    """Compare the cards of two versions: metrics, data, settings."""
    from supcam.registry.history import diff as compare

    print_table(compare(_registry(), first, second))


def _registry() -> Registry:
    return Registry(default_uri(), _name())


def _name() -> str:
    try:
        return load_settings(tracking.project_root() / "params.yaml").promote.model_name
    except UsageError:
        return PromoteSettings().model_name  # outside a project, on a store that the environment names
