"""Watching production: are its answers still those that were validated?"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from supcam import tracking
from supcam.cli.options import project_settings
from supcam.cli.tables import print_table
from supcam.errors import GateRefused, UsageError
from supcam.registry.client import PRODUCTION_URI, load_production
from supcam.registry.package import REFERENCE_FILE
from supcam.settings import Settings


def add_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    app.command("watch")(watch)


def watch(
    answers: Annotated[list[Path], typer.Argument(help="Output of supcam predict: CSV, Parquet, or folders of them.")],
    model: Annotated[
        str, typer.Option(help="The model that answered; its package holds the reference.")
    ] = PRODUCTION_URI,
    reference: Annotated[
        Path | None, typer.Option(help="Answers to compare with instead, as the same model gave them.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Compare by a column as well: case, source, day.")] = None,
    into: Annotated[Path, typer.Option(help="Folder for watch.html and watch.json.")] = Path("reports/watch"),
    track: Annotated[bool, typer.Option("--track", help="Log the metrics to MLflow.")] = False,
) -> None:
    """Have the answers moved away from those that were validated? Exit code 3: an alarm, see watch.* in params.yaml."""
    from supcam.monitoring.answers import read_answers, require_answers_of
    from supcam.monitoring.report import PAGE, metrics, write_report
    from supcam.monitoring.shift import compare_groups, compare_with_reference

    settings = project_settings().watch
    table = read_answers(answers)
    if reference is None:
        predictor = load_production(model)
        origin, reference = predictor.origin, _reference_of(predictor.package)
        require_answers_of(table, predictor.card["review"], origin)
    else:
        origin = str(reference)
    base = read_answers([reference])
    shifts = [compare_with_reference(base, table, settings)]
    shifts += compare_groups(base, table, settings, by) if by else []
    write_report(shifts, settings, len(base), origin, into)
    rows = [
        (shift.group, row.name, f"{row.distance:.3f}", f"{row.limit:.3f}", f"{row.p:.3f}", "ALARM" if row.alarm else "")
        for shift in shifts for row in shift.comparisons if row.alarm or shift is shifts[0]
    ]  # fmt: skip
    print_table(pd.DataFrame(rows, columns=["answers", "quantity", "distance", "limit", "by chance", ""]))
    typer.echo(f"{len(table)} answers against {len(base)} of {origin}: {into / PAGE}")
    if track:
        root = tracking.project_root()
        with tracking.stage_run("watch", root, Settings(watch=settings)) as run:
            run.log(metrics(shifts[0]))
            run.log_artifact(into / PAGE)
    alarms = [f"{shift.group}: {row.name}" for shift in shifts for row in shift.alarms]
    if alarms:
        raise GateRefused(f"the answers moved away from the reference ({'; '.join(alarms)}). See {into / PAGE}")


def _reference_of(package: Path) -> Path:
    file = package / REFERENCE_FILE
    if not file.is_file():
        raise UsageError(
            f"the package {package} holds no reference; it was made by an earlier version. Give --reference: answers "
            "of this model to crops like those it was validated on."
        )
    return file
