"""Commands about crops: import, synthesize, validate, data diff, resplit and folds."""

import re
from pathlib import Path
from typing import Annotated

import typer

from supcam import tracking
from supcam.cli.options import CasePattern, Encoding, Page, TypeMap, read_map
from supcam.errors import UsageError
from supcam.files import is_free
from supcam.progress import progress_bar
from supcam.settings import load_settings


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    app.command("import")(import_)
    app.command("synthesize")(synthesize)
    app.command("validate")(validate)
    data = typer.Typer(help="Versions of the data.", no_args_is_help=True)
    data.command("diff")(diff)
    data.command("resplit")(resplit)
    data.command("folds")(folds_)
    app.add_typer(data, name="data")


def import_(
    sources: Annotated[list[Path], typer.Argument(help="Folders, zip files, or CSV tables.")],
    into: Annotated[Path | None, typer.Option(help="Data folder; default: data/ of the project.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Start from scratch instead of adding.")] = False,
    type_map: TypeMap = None,
    case_pattern: CasePattern = None,
    page: Page = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Whole pictures with masks (label maps, COCO, LabelMe): cut and typed.")
    ] = False,
    overlap_value: Annotated[int, typer.Option(help="Value of label maps where chromosomes overlap.", min=1)] = 255,
    encoding: Encoding = None,
) -> None:
    """Take in crops, all or nothing, and record the new version of the data."""
    from supcam.data.importers import import_sources

    target, kinds = into or tracking.project_root() / "data", read_map(type_map)
    with progress_bar("import") as progress:
        report = import_sources(
            sources,
            target,
            replace=replace,
            type_map=kinds,
            case_pattern=case_pattern,
            page=page,
            masks=masks,
            overlap=overlap_value,
            encoding=encoding,
            progress=progress,
        )
    typer.echo("\n".join(report.lines()))


def synthesize(
    into: Annotated[Path, typer.Option(help="New folder for images/ and labels.csv.")],
    cases: Annotated[int, typer.Option(help="Cases, each with its own stain, focus and cut.", min=1)] = 12,
    crops: Annotated[int, typer.Option(help="Crops in all, at least 8 for each case.", min=8)] = 720,
    seed: Annotated[int, typer.Option(help="The same seed draws the same crops.", min=0)] = 42,
    counts: Annotated[
        str | None, typer.Option(help="Crops of each type instead: instance,touching,overlapping,touching-overlapping.")
    ] = None,
) -> None:
    """Draw synthetic crops of all four types, a look for each case; take them in with: supcam import INTO."""
    from supcam.synthetic.sample import synthesize as draw

    _require_new(into)
    frame = draw(into, cases=cases, crops=crops, seed=seed, counts=_read_counts(counts))
    types = ", ".join(f"{count} {name}" for name, count in frame["type"].value_counts().items())
    typer.echo(f"{len(frame)} crops of {cases} cases in {into}: {types}")


def _require_new(into: Path) -> None:
    if not is_free(into):
        raise UsageError(f"{into} exists and is not empty. Name a new folder with --into.")


def _read_counts(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,7}(,[0-9]{1,7}){3}", text):
        raise UsageError(f"--counts {text!r} is not four numbers such as 1712,3029,1038,813. Correct it.")
    return [int(number) for number in text.split(",")]


def validate() -> None:
    """Run the expectations on data/, print failing crops and write the data report; opens nothing."""
    from supcam.data.expectations import validate_crops
    from supcam.data.manifest import read_manifest
    from supcam.data.reports import require_passed

    root = tracking.project_root()
    settings = load_settings(root / "params.yaml")
    page = root / "reports" / "validate"
    frame = read_manifest(root / "data" / "manifest.csv")
    with progress_bar("validate") as progress:
        report = validate_crops(frame, root / "data", settings.validate_, progress=progress)
    typer.echo(require_passed(report, page / "validation.json", root / "data", page))


def diff(
    before: Annotated[str, typer.Argument(help="Git revision, data folder or manifest.")],
    after: Annotated[str, typer.Argument(help="The same, or: workspace.")] = "workspace",
) -> None:
    """Say which crops and labels changed between two versions of the data."""
    from supcam.data.differences import diff_versions

    typer.echo("\n".join(diff_versions(before, after, tracking.project_root() / "data").lines()))


def resplit() -> None:
    """Forget which part each case is in; the next dvc repro divides all crops from scratch (see history.json)."""
    root = tracking.project_root()
    assignments = root / "outputs" / "split" / "assignments.csv"
    if not assignments.exists():
        raise UsageError(f"{assignments} does not exist: there is no split to discard. Run: dvc repro split")
    assignments.unlink()
    typer.echo("Cases are divided from scratch by: dvc repro. Test metrics before and after are of different crops.")


def folds_(
    folds: Annotated[int, typer.Option("--folds", help="Number of folds.", min=2)],
    into: Annotated[Path, typer.Option(help="New folder for the lists of ids and folds.json.")],
) -> None:
    """Divide the crops into folds by the protocol of the split, and write the ids each holds out, with hashes."""
    from supcam.data.folds import fold_manifest, write_folds
    from supcam.data.manifest import read_manifest
    from supcam.experiments.parts import links_of

    _require_new(into)
    root = tracking.project_root()
    settings = load_settings(root / "params.yaml").split
    frame = read_manifest(root / "data" / "manifest.csv")
    divided = fold_manifest(frame, settings, folds, linked=links_of(root, frame))
    for fold in write_folds(divided, settings, into)["folds"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in fold["counts"].items())
        typer.echo(f"{into / fold['ids']}: {kinds}; sha256 {fold['sha256'][:12]}")
