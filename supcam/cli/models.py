"""Commands about models: predict, explain, route, pull, and the registry."""

import json
import os
import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import pandas as pd
import typer

from supcam import tracking
from supcam.cli.options import Model, Page, Paths, project_settings
from supcam.cli.tables import AsJson, print_json, print_table
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash, read_manifest
from supcam.errors import GateRefused, UsageError
from supcam.files import write_text
from supcam.registry import client, promotion
from supcam.registry import explain as explanation
from supcam.registry import history as record
from supcam.registry.client import PRODUCTION_URI, load_production
from supcam.registry.evidence import ProjectCrops
from supcam.registry.notify import notify
from supcam.registry.store import PRODUCTION, Registry
from supcam.review.production import doubtful_sheet, review_of_routed
from supcam.review.sheet import PAGE
from supcam.serving.gate import WITHOUT_TYPE
from supcam.settings import load_settings


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    for command in (predict, explain, route, pull, show, models, promote, rollback, history, diff):
        app.command(command.__name__)(command)


def predict(
    paths: Paths,
    model: Model = PRODUCTION_URI,
    output: Annotated[
        Path | None, typer.Option(help="CSV file with all columns, - for standard output; default: a short table.")
    ] = None,
    summary: Annotated[Path | None, typer.Option(help="JSON file for the counts of the summary line.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many images, spread evenly.", min=1)] = None,
    page: Page = None,
    review: Annotated[
        Path | None, typer.Option(help="New folder for the crops that need review, with a page to decide about them.")
    ] = None,
) -> None:
    """Print the type of each crop. A bad image is a row with an error; the exit code is then 1.

    A picture that does not show a crop gets no type; the column reason says why, and why crops need review.
    """
    piped = output == Path("-")
    if output is not None and not piped:
        _refuse_output(output)
    if summary is not None:
        _refuse_output(summary, "--summary")
    predictor = load_production(model)
    answers = client.predict_files(predictor, paths, page=page, limit=limit)
    if summary is not None:
        write_text(summary, json.dumps(answers.as_dict(), indent=1) + "\n")
    frame = answers.frame
    if review is not None:
        count = doubtful_sheet(frame, review)
        typer.echo(f"{count} crops to review: {review / PAGE}", err=True)
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
        if len(frame) > 1:
            print_table(_by_type(frame))
        typer.echo(answers.summary())
    for error in frame.loc[frame["error"] != "", "error"]:
        typer.echo(f"error: {error}", err=True)  # it begins with the path
    raise typer.Exit(1 if answers.failed else 0)


def _by_type(frame: pd.DataFrame) -> pd.DataFrame:
    """Crops and crops to review of each type that was answered."""
    types = frame["type"].where(frame["type"] != "", "no type").astype(pd.CategoricalDtype([*TYPE_LABELS, "no type"]))
    counts = frame.assign(type=types).groupby("type", observed=True)["needs_review"].agg(["size", "sum"])
    return counts.astype(int).reset_index().set_axis(["type", "crops", "to review"], axis=1)


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


def _refuse_output(output: Path, option: str = "--output") -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(
            f"{option} {output} is a folder, or its folder does not exist; name a file in an existing folder."
        )


def route(
    paths: Paths,
    into: Annotated[Path, typer.Option(help="New folder: one folder per type, doubtful crops in review/.")],
    model: Model = PRODUCTION_URI,
    page: Page = None,
) -> None:
    """Sort crops into a folder per type for downstream segmentation; review/ holds a page to decide about the rest."""
    routed = client.route(load_production(model), paths, into, page=page)
    review_of_routed(routed.frame, into)
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


def show(crops: Annotated[int, typer.Option(help="Test crops of each type.", min=1)] = 2) -> None:
    """Show the production model, its answers to a few test crops of each type, and where to look next."""
    root = tracking.project_root()
    predictor = load_production()
    manifest = read_manifest(root / "data" / "manifest.csv")
    test = manifest[manifest["sha256"].map(predictor.split()) == "test"].sort_values("crop_id")
    chosen = pd.concat([test[test["type"] == label].head(crops) for label in TYPE_LABELS])
    answers = client.predict_files(predictor, [root / "data" / path for path in chosen["path"]]).frame
    print_table(_metrics(predictor.card), f"{predictor.origin}, in production")
    folder = os.path.commonpath([PurePosixPath(path).parent for path in chosen["path"]])
    rows = pd.DataFrame(
        {
            "test crop": [path.removeprefix(f"{folder}/") for path in chosen["path"]],
            "true type": chosen["type"].to_numpy(),
            "answer": answers["type"],
            "confidence": answers["confidence"].map("{:.2f}".format),
            "review": answers["reason"],
        }
    )
    print_table(rows, f"Crops of data/{folder} that the model has not seen before")
    right = int((rows["answer"] == rows["true type"]).sum())
    typer.echo(f"{right} of {len(rows)} correct. Next:")
    for command, gives in {**_NEXT, f"supcam explain data/{chosen['path'].iloc[-1]}": "why this answer"}.items():
        typer.echo(f"  {command:<40}  # {gives}")
    typer.echo("Your own crops, step by step: docs/tutorial.md")
    typer.echo("Report on the data: reports/validate/index.html")


_NEXT = {
    "source .venv/bin/activate": "supcam, dvc and mlflow on the path",
    "supcam ui": "runs, metrics and models in the browser",
    "supcam evaluate --data data --into page": "page/report.html",
}


def models(as_json: AsJson = False) -> None:
    """List the registered versions: aliases, metrics, and what each was made of."""
    registry = _registry()
    frame = record.models(registry)
    if as_json:
        print_json(frame)
        return
    shown = frame[["version", "aliases", "registered", "decision"]].copy()
    shown["training"] = frame["training_seconds"].map(lambda value: "" if pd.isna(value) else f"{value / 60:.1f} min")
    for name in ("accuracy", "macro_sensitivity"):
        test, validation = frame[f"test_{name}"], frame[f"validation_{name}"]
        values = test.map("{:.3f}".format).where(test.notna(), validation.map("({:.3f})".format))
        shown[name.replace("_", " ")] = values.where(test.notna() | validation.notna(), "")
    print_table(shown, "Metrics are of test crops; in brackets of validation crops, where no others were recorded")
    origin = frame[["version", "run", "commit", "data", "code"]].copy()
    for name in ("commit", "data", "code"):
        origin[name] = origin[name].str[:10]
    print_table(origin)
    if PRODUCTION in registry.aliases():
        predictor = load_production(f"models:/{registry.name}@{PRODUCTION}")
        print_table(_metrics(predictor.card), f"{predictor.origin}, in production")


def _metrics(card: Mapping[str, Any]) -> pd.DataFrame:
    sensitivity = {f"sensitivity, {label}": card["sensitivity"][label] for label in TYPE_LABELS}
    rows = []
    for name, metric in {**card["metrics"], **sensitivity}.items():
        value = f"{metric['value']:.4f}" if metric["crops"] else "no test crop"
        interval = f"{metric['low']:.4f} - {metric['high']:.4f}" if metric["low"] is not None else ""
        rows.append((name.replace("_", " "), value, interval, metric["crops"]))
    return pd.DataFrame(rows, columns=["metric, test crops", "value", "interval", "crops"])


def promote(
    run_id: Annotated[
        str | None,
        typer.Argument(help="Run of a candidate, or the beginning of its id; default: the best of the present data."),
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
    registry, settings = _registry(), project_settings().promote
    event = record.rollback(registry, reason, to=to)
    typer.echo(f"production is version {event['version']} again, it was version {event['from']}")
    notify(settings, {"model": registry.name, **event})


def history(as_json: AsJson = False) -> None:
    """Show which version was in production, since when, by whom and why, newest first."""
    frame = record.history(_registry())
    if as_json:
        print_json(frame)
        return
    minutes = frame["when"].str[:16].str.replace("T", " ")
    print_table(frame.assign(when=minutes).rename(columns={"number": "", "when": "when (UTC)"}))


def diff(
    first: Annotated[str, typer.Argument(help="Alias or version.")],
    second: Annotated[str, typer.Argument(help="Alias or version.")],
    as_json: AsJson = False,
) -> None:
    """Compare the cards of two versions: metrics with their difference, data, settings."""
    frame = record.diff(_registry(), first, second)
    if as_json:
        print_json(frame)
        return
    if frame.empty:
        typer.echo(f"{first} and {second} have the same card: nothing differs")
        return
    print_table(_readable(frame).map(_short))
    typer.echo("Every entry, with confidence intervals: --json")


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Differences for people: without the ends of intervals; a section that one card lacks is one row."""
    rows = [row for row in frame.itertuples(index=False, name=None) if not row[0].endswith((".low", ".high"))]
    shown: list[tuple[object, ...]] = []
    for section, group in groupby(rows, key=lambda row: ".".join(row[0].split(".")[:2])):
        entries = list(group)
        counts = [sum(row[side] not in (None, "{}") for row in entries) for side in (1, 2)]
        if len(entries) > 1 and 0 in counts:
            shown.append((f"{section}.*", *(f"{count} entries" if count else "" for count in counts), None))
        else:
            shown += [(row[0].removesuffix(".value"), *row[1:]) for row in entries]
    return pd.DataFrame(shown, columns=frame.columns, dtype=object)


def _short(value: object) -> str:
    """A value of a card in one cell: numbers with four digits, hashes and lists shortened."""
    if value is None or value == "" or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 0.0001 or value == 0 else f"{value:.1e}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if text.startswith("[["):
        return f"{text.count('[') - 1} points"
    if re.fullmatch(r"[0-9a-f]{32,}(\.dir)?", text):
        return text[:12]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 60  # characters of a value in a cell of a table


def _registry() -> Registry:
    return Registry(client.default_uri(), _name())


def _name() -> str:
    return project_settings().promote.model_name  # outside a project, on a store that the environment names
