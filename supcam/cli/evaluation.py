"""Commands that judge a model on labelled crops: check, evaluate."""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from supcam import tracking
from supcam.cli.options import CasePattern, Model, TypeMap, project_settings, read_map
from supcam.cli.tables import print_table
from supcam.data.manifest import MANIFEST, read_manifest
from supcam.errors import GateRefused, UsageError
from supcam.files import write_text
from supcam.registry.client import PRODUCTION_URI, Predictor, load_production

if TYPE_CHECKING:
    from supcam.data.crops import CropSet

Data = Annotated[
    Path, typer.Option(help="Labelled crops: a folder per type, a zip of one, a CSV table, or a data folder.")
]


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    app.command("check")(check)
    app.command("evaluate")(evaluate)


def check(
    model: Model = PRODUCTION_URI,
    data: Annotated[
        Path | None, typer.Option(help="Labelled crops; default: the model's test crops among those of data/.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the verdicts.")] = None,
    type_map: TypeMap = None,
    case_pattern: CasePattern = None,
) -> None:
    """Test a model's behaviour: rotations, brightness, blur, padding, composed crops, crops saved again in other ways.

    Exit code 3: a check failed.
    """
    from supcam.checks import run_checks

    predictor = load_production(model)
    settings = project_settings()
    if data is None and (type_map is not None or case_pattern is not None):
        raise UsageError("--map and --case-pattern say how to read --data. Give labelled crops with it.")
    crops, notes = _own_test_crops(predictor) if data is None else _labelled(data, type_map, case_pattern)
    answer = partial(predictor.predict, errors="row")
    report = run_checks(predictor.probabilities, crops, settings.check, settings.compose, answer)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    verdicts = {True: "passed", False: "FAILED", None: "not applied"}
    rows = [
        (rule.name, verdicts[rule.passed], "" if rule.value is None else f"{rule.value:.4f}", rule.allowed, rule.note)
        for rule in report.rules
    ]
    print_table(pd.DataFrame(rows, columns=["check", "verdict", "share", "allowed", ""]))
    silent = [row for row in report.resaving if row["silent"]]
    if silent:
        typer.echo("Kinds of saving again by which types change without review (shares of crops):")
        print_table(pd.DataFrame(silent).sort_values("silent", ascending=False).round(3))
    print_table(pd.DataFrame([{"source": name, **metrics} for name, metrics in report.sources.items()]).round(4))
    if output is not None:
        content = {"model": predictor.origin, **report.as_dict()}
        write_text(output, json.dumps(content, indent=1, allow_nan=False) + "\n")
    failed = "; ".join(rule.name for rule in report.rules if rule.passed is False)
    if failed:
        raise GateRefused(
            f"{predictor.origin} failed: {failed}. The thresholds are settings, see: supcam settings (check.*)"
        )


def evaluate(
    data: Data,
    into: Annotated[Path, typer.Option(help="Folder for report.html, metrics.json, tables and plots.")],
    model: Model = PRODUCTION_URI,
    compare: Annotated[str | None, typer.Option(help="A second model on the same crops.")] = None,
    type_map: TypeMap = None,
    case_pattern: CasePattern = None,
) -> None:
    """Judge a model on labelled crops: one page that needs no other file, plots, tables and JSON."""
    from supcam.evaluation.page import Judged, write_report

    predictors = [load_production(uri) for uri in ([model] if compare is None else [model, compare])]
    settings = project_settings()
    crops, notes = _labelled(data, type_map, case_pattern)
    judged = [Judged(one.origin, *one.judge(crops.sources), _seen(one, crops.frame)) for one in predictors]
    expected = predictors[0].expected_unlike
    metrics = write_report(
        judged, crops, settings.evaluate, into, title=str(data), notes=notes, unlike=expected
    ).metrics
    for note in metrics["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"{into / 'report.html'}: {metrics['crops']} crops, accuracy {metrics['accuracy']:.4f}, "
        f"macro sensitivity {metrics['macro_sensitivity']:.4f}"
    )


def _labelled(source: Path, type_map: str | None, case_pattern: str | None) -> "tuple[CropSet, list[str]]":
    """Labelled crops of any form that import takes, read through a folder of their own, and the notes of the import.

    A data folder is read as it is.
    """
    from supcam.data.crops import CropSet
    from supcam.data.importers import import_sources

    if (source / MANIFEST).is_file() and (source / "crops").is_dir():
        if type_map is not None or case_pattern is not None:
            raise UsageError(
                f"{source} is a data folder, whose manifest has types and cases; --map and --case-pattern are for "
                "other sources. Leave them out."
            )
        frame = read_manifest(source / MANIFEST)
        if frame.empty:
            raise UsageError(f"{source} holds no crop. Import some: supcam import")
        return CropSet.load(frame, source), []
    with TemporaryDirectory() as scratch:
        target = Path(scratch) / "data"
        report = import_sources([source], target, type_map=read_map(type_map), case_pattern=case_pattern)
        notes = [f"{count} {what}, so not judged" for what, count in sorted(report.ignored.items())]
        notes += [f"{count} crops {what}" for what, count in sorted(report.notes.items())]
        return CropSet.load(read_manifest(target / MANIFEST), target), notes


def _own_test_crops(predictor: Predictor) -> "tuple[CropSet, list[str]]":
    """The crops of data/ that the model was judged on, and so neither trained nor tuned."""
    from supcam.data.crops import CropSet

    root = tracking.project_root()
    frame = read_manifest(root / "data" / MANIFEST)
    chosen = frame[frame["sha256"].map(predictor.split()) == "test"]
    if chosen.empty:
        raise UsageError(
            f"none of the {len(frame)} crops in {root / 'data'} is a test crop of {predictor.origin}. "
            "Get the data it was judged on (dvc pull data.dvc), or give other labelled crops with --data."
        )
    return CropSet.load(chosen, root / "data"), []


def _seen(predictor: Predictor, frame: pd.DataFrame) -> int:
    """How many of the crops trained or tuned the model."""
    return int(frame["sha256"].map(predictor.split()).isin(["train", "validation"]).sum())
