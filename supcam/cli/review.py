"""Commands of review: a page on which a person decides about crops, and the way of the decisions into the data."""

from pathlib import Path
from typing import Annotated

import typer

from supcam import tracking
from supcam.cli.options import Model, Paths
from supcam.cli.tables import print_table
from supcam.errors import UsageError
from supcam.progress import progress_bar
from supcam.registry.client import PRODUCTION_URI
from supcam.settings import load_settings

Sheets = Annotated[list[Path], typer.Argument(help="Filled in review.csv, one or several.")]


def add_commands(app: typer.Typer) -> None:
    """Add them to the command, as a group."""
    group = typer.Typer(
        help="Crops that a person should see: sheets, agreement, and the way into the data.", no_args_is_help=True
    )
    for command in (sheet, select, apply, compare, to_label_studio, from_label_studio):
        group.command(command.__name__.replace("_", "-"))(command)
    app.add_typer(group, name="review")
    app.command("compare")(compare_models)


def sheet(
    into: Annotated[Path, typer.Option(help="Folder for review.csv and review.html.")] = Path("reports/review"),
    folds: Annotated[int, typer.Option(help="Classifiers to train, each on the cases of the others.", min=2)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each; default: finetune.epochs.", min=1)] = None,
) -> None:
    """List crops whose label a confident classifier of other cases contradicts; nothing is changed."""
    from supcam.data.crops import CropSet
    from supcam.data.manifest import read_manifest
    from supcam.data.reports import read_links
    from supcam.evaluation.out_of_fold import out_of_fold
    from supcam.review.labels import suspicious_labels, trust
    from supcam.review.sheet import PAGE, write_sheet

    root = tracking.project_root()
    chosen = {"runtime.progress": "false"}  # one bar for all folds
    if epochs:  # trained from random weights: there are no epochs of the head alone
        chosen |= {"finetune.epochs": str(epochs), "finetune.head_epochs": "0"}
    settings = load_settings(root / "params.yaml", chosen)
    crops = CropSet.load(read_manifest(root / "data" / "manifest.csv"), root / "data")
    linked = read_links(root / "outputs" / "validate" / "validation.json")
    with progress_bar("folds", folds) as progress:
        probabilities = out_of_fold(
            crops, settings, folds, state_dir=root / "state" / "review", linked=linked, progress=progress
        )
    rows = suspicious_labels(crops.frame, probabilities)
    notes = trust(crops.frame, probabilities, len(rows))
    written = write_sheet(rows, root / "data", root / into, heading="Labels to review", notes=notes)
    typer.echo("\n".join(notes))
    typer.echo(f"Decide in the browser: {written.with_name(PAGE)}, export, then: supcam review apply review.csv")


def select(
    paths: Paths,
    count: Annotated[int, typer.Option(help="Crops to choose.", min=1)],
    into: Annotated[Path, typer.Option(help="New folder for the chosen crops, with a page.")],
    model: Model = PRODUCTION_URI,
) -> None:
    """Choose, of crops without labels, those whose labels would help the next model most."""
    from supcam.registry.client import load_production, predict_files
    from supcam.review.production import copied_crops, write_answers
    from supcam.review.selection import select as choose
    from supcam.review.selection import statistics_of_files
    from supcam.review.sheet import PAGE

    answers = predict_files(load_production(model), paths).frame
    chosen = choose(answers, statistics_of_files(answers["path"].tolist()), count)
    if chosen.empty:
        raise UsageError("none of the images is a crop with a type. Give crops of chromosomes.")
    kinds = ", ".join(f"{number} {kind}" for kind, number in chosen["type"].value_counts().items())
    note = f"{len(chosen)} of {len(answers)} crops, the most useful ones first; suggested types: {kinds}."
    with copied_crops(chosen, into) as (rows, folder):
        write_answers(rows.assign(suggestion=rows["type"]), folder, "Crops to label next", [note])
    typer.echo(note)
    typer.echo(f"Decide in the browser: {into / PAGE}, export, then: supcam review apply review.csv")


def apply(sheets: Sheets) -> None:
    """Take the decisions of sheets into the data as a new version: labels of its crops, and new crops."""
    from supcam.review.labels import apply_review

    typer.echo("\n".join(apply_review(sheets, tracking.project_root() / "data").lines()))


def compare(
    first: Annotated[Path, typer.Argument(help="Sheet of one reader.")],
    second: Annotated[Path, typer.Argument(help="The same sheet, filled in by another reader.")],
    into: Annotated[Path | None, typer.Option(help="New folder for a sheet of the crops on which they differ.")] = None,
) -> None:
    """How far two readers agree (Cohen's kappa), and the crops on which they differ, to settle."""
    from supcam.review.agreement import compare_readers
    from supcam.review.sheet import PAGE, write_sheet

    found = compare_readers(first, second)
    typer.echo("\n".join(found.lines()))
    if into is not None:
        written = write_sheet(found.differing, Path("/"), into, heading="Crops on which two readers differ")
        typer.echo(f"to settle: {written.with_name(PAGE)}")


def to_label_studio(
    sheet: Annotated[Path, typer.Argument(help="A review.csv.")],
    into: Annotated[Path, typer.Option(help="Folder for tasks.json and interface.xml.")],
) -> None:
    """Write a sheet as tasks of Label Studio, the suggestions as pre-annotations."""
    from supcam.review.label_studio import write_tasks

    typer.echo(
        f"{write_tasks(sheet, into)} tasks: {into / 'tasks.json'}; labelling interface: {into / 'interface.xml'}"
    )


def from_label_studio(
    export: Annotated[Path, typer.Argument(help="JSON export of the project.")],
    sheet: Annotated[Path, typer.Option(help="Sheet to write, in the folder of the one that went out.")],
) -> None:
    """Write a sheet from an export of Label Studio, for: supcam review apply."""
    from supcam.review.label_studio import read_tasks

    typer.echo(f"{read_tasks(export, sheet)} crops decided: {sheet}")


def compare_models(
    paths: Paths,
    new: Annotated[str, typer.Option(help="The model that may follow.")] = "models:/supcam@candidate",
    present: Annotated[str, typer.Option(help="The model in use.")] = PRODUCTION_URI,
    into: Annotated[Path | None, typer.Option(help="New folder for the differing crops, with a page.")] = None,
) -> None:
    """Let two models answer the same crops before anyone promotes: where do they differ?"""
    from supcam.registry.client import load_production, predict_files
    from supcam.review.shadow import compare_answers, write_differences

    answers = [predict_files(load_production(model), paths).frame for model in (present, new)]
    found = compare_answers(*answers)
    typer.echo(f"rows: {present}, columns: {new}")
    print_table(found.table.rename_axis("").reset_index())
    typer.echo("\n".join(found.lines()))
    for error in answers[0].loc[answers[0]["error"] != "", "error"]:
        typer.echo(f"error: {error}", err=True)
    if into is not None:
        typer.echo(f"differing crops: {write_differences(found, into)}")
    raise typer.Exit(1 if (answers[0]["error"] != "").any() else 0)
