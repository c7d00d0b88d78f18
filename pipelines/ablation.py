"""Rows and sweeps of the method on the same folds and seeds, in one table (mlflow run . -e ablation)."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.errors import SupcamError, UsageError
from supcam.experiments.parts import Fold, grouped_folds, links_of, split_parts
from supcam.experiments.runner import ablate
from supcam.progress import progress_bar
from supcam.settings import Settings
from supcam.stages.command import command_line
from supcam.stages.crops import SPLIT
from supcam.stages.workspace import BEST_PARAMS, Workspace


def compare(workspace: Workspace) -> None:
    """Compare the rows and print where the table is; exit code 1 when a row failed."""
    root = workspace.root
    crops, parts, settings = _inputs(workspace)
    out = workspace.outputs / "ablation"
    with _run_above(workspace, settings) as run, progress_bar("jobs") as progress:
        state = root / "state" / "ablation"
        _, counts = ablate(crops, parts, settings, out, state=state, root=root, run=run, progress=progress)
        run.log_artifact(out, "outputs/ablation")
    typer.echo(f"ablation: {counts.ran} jobs run, {counts.kept} kept from before: {out / 'ablation.json'}")
    if counts.failed:
        raise SupcamError(f"{len(counts.failed)} jobs failed: {'; '.join(counts.failed)}. The rest is in {out}.")


def _inputs(workspace: Workspace) -> tuple[CropSet, list[Fold], Settings]:
    """Crops, parts and settings; a study's margin and temperature count only where its crops are not judged."""
    settings, data = workspace.settings, workspace.root / "data"
    if settings.ablation.folds:
        frame = read_manifest(data / "manifest.csv")
        links = links_of(workspace.root, frame)
        parts = grouped_folds(frame, settings.split, settings.ablation.folds, linked=links)
    else:
        manifest = workspace.find(SPLIT)
        if manifest is None:
            raise UsageError("ablation.folds = 0 needs the split, which does not exist. Run: dvc repro, or set folds.")
        frame = read_manifest(manifest)
        parts = split_parts(frame, frame.set_index("crop_id")["split"])
        settings = workspace.tuned_settings() if workspace.find(BEST_PARAMS) else settings
    return CropSet.load(frame.drop(columns="split", errors="ignore"), data), parts, settings


@contextmanager
def _run_above(workspace: Workspace, settings: Settings) -> Iterator[tracking.Run]:
    """The run that `mlflow run` made, which it ends itself, or one of our own."""
    if workspace.parent:
        run = tracking.Run.attach(workspace.root, workspace.parent)
        yield run
        run.flush()
        return
    with tracking.stage_run("ablation", workspace.root, settings, tags=workspace.tags) as run:
        yield run


if __name__ == "__main__":
    command_line("ablation", __doc__ or "", compare)
