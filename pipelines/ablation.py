"""Rows and sweeps of the method on the same folds and seeds, in one table (mlflow run . -e ablation)."""

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import typer

from pipelines.stage import (
    EXTRA_OPTIONS,
    Device,
    FromRun,
    OwnFolder,
    Place,
    Profile,
    exit_codes,
    open_place,
)
from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.errors import SupcamError, UsageError
from supcam.experiments.parts import Fold, grouped_folds, links_of, split_parts
from supcam.experiments.runner import ablate
from supcam.progress import progress_bar
from supcam.settings import Settings, with_best_params

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings=EXTRA_OPTIONS, help=(__doc__ or "").strip())
def main(
    context: typer.Context,
    own_folder: OwnFolder = True,
    profile: Profile = "",
    device: Device = "",
    from_run: FromRun = "",
) -> None:
    """Compare the rows and print where the table is; exit code 1 when a row failed."""
    root = tracking.project_root()
    place = open_place(root, "ablation", own_folder, profile, device, from_run, context.args)
    crops, parts, settings = _inputs(place)
    out = place.outputs / "ablation"
    with _run_above(place, settings) as run, progress_bar("jobs") as progress:
        state = root / "state" / "ablation"
        found = ablate(crops, parts, settings, out, state=state, root=root, run=run, progress=progress)
        run.log_artifacts(out, "outputs/ablation")
    counts = found.counts
    typer.echo(f"ablation: {counts.ran} jobs run, {counts.kept} kept from before: {out / 'ablation.json'}")
    if counts.failed:
        raise SupcamError(f"{len(counts.failed)} jobs failed: {'; '.join(counts.failed)}. The rest is in {out}.")


def _inputs(place: Place) -> tuple[CropSet, list[Fold], Settings]:
    """Crops, parts and settings; a study's margin and temperature count only where its crops are not judged."""
    chosen = place.settings
    if chosen.ablation.folds:
        frame = read_manifest(place.root / "data" / "manifest.csv")
        links = links_of(place.root, frame)
        return _load(place, frame), grouped_folds(frame, chosen.split, chosen.ablation.folds, linked=links), chosen
    manifest, tuned = place.find("split/manifest.csv"), place.find("tune/best_params.yaml")
    if manifest is None:
        raise UsageError("ablation.folds = 0 needs the split, which does not exist. Run: dvc repro, or set folds.")
    frame = read_manifest(manifest)
    parts = split_parts(frame, frame.set_index("crop_id")["split"])
    return _load(place, frame), parts, with_best_params(chosen, tuned) if tuned else chosen


def _load(place: Place, frame: pd.DataFrame) -> CropSet:
    return CropSet.load(frame.drop(columns="split", errors="ignore"), place.root / "data")


@contextmanager
def _run_above(place: Place, settings: Settings) -> Iterator[tracking.Run]:
    """The run that `mlflow run` made, which it ends itself, or one of our own."""
    if place.parent:
        run = tracking.Run.attach(place.root, place.parent)
        yield run
        run.flush()
        return
    with tracking.stage_run("ablation", place.root, settings, tags=place.tags) as run:
        yield run


if __name__ == "__main__":
    with exit_codes():
        app()
