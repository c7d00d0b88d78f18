"""Jobs of a comparison: one recipe, seed and fold each, trained once, kept by a hash of all that determines it."""

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.evaluation.metrics import confusion, rates
from supcam.experiments.parts import Fold
from supcam.experiments.recipe import Log, RecipeResult, run_recipe
from supcam.experiments.rows import SECTIONS
from supcam.experiments.shapes import run_forest
from supcam.files import write_text
from supcam.identity import identity, key_of
from supcam.settings import Settings

# Files and tags of a job keep the name "cell", which earlier versions gave it, so that kept results stay readable.
RESULT, PREDICTIONS = "cell.json", "predictions.csv"
LOGITS = [f"log_p_{label.replace('-', '_')}" for label in TYPE_LABELS]

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = ("composition", "data", "serving", "synthetic", "losses", "models", "training")
_CODE = (
    "experiments/recipe.py",
    "experiments/shapes.py",
    "cluster_type.py",
    "views.py",
    *(f"{folder}/**/*.py" for folder in _FOLDERS),
)


@dataclass(frozen=True)
class Job:
    """One training to be judged.

    ``settings`` has the overrides of the row of the table and the seed.
    """

    row: str
    settings: Settings
    fold: Fold
    model: Literal["network", "forest"] = "network"

    @property
    def seed(self) -> int:
        """The seed of composition and training."""
        return self.settings.runtime.seed

    @property
    def name(self) -> str:
        """The name of the job for people."""
        return f"{self.row}, seed {self.seed}, fold {self.fold.number}"


@dataclass(frozen=True)
class JobContext:
    """What all jobs share; sent once to each worker process.

    Attributes:
        crops: All crops; folds name their rows.
        state: Folder in which finished jobs are kept, one folder per key.
        parent: Project, run above those of the jobs, and its experiment, so that a worker need not ask the server;
            None tracks nothing.
    """

    crops: CropSet
    state: Path
    parent: tuple[Path, str, str] | None = None

    def key(self, job: Job) -> str:
        """Hash of all that determines a job: crops, settings, model, code."""
        content = {"crops": job.fold.digest(self.crops.frame), "model": job.model, "code": code_digest()}
        return key_of(identity(job.settings, job.model, content))[:20]

    def result(self, job: Job) -> RecipeResult | None:
        """The kept result of a job; None while it is not finished."""
        folder = self.state / self.key(job)
        if not (folder / RESULT).is_file():
            return None
        kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / PREDICTIONS, dtype={"crop_id": str}).set_index("crop_id")
        ids = self.crops.frame["crop_id"].iloc[job.fold.held_out]
        logits = table.loc[ids, LOGITS].to_numpy(dtype=np.float64)
        return RecipeResult(logits, kept["figures"], kept["seconds"], kept["resumed"], kept["device"])


@functools.cache
def code_digest() -> str:
    """SHA-256 over the code that determines a job."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _CODE for file in _PACKAGE.glob(pattern)):
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def run_job(job: Job, context: JobContext) -> None:
    """Train and predict one job, or resume it where it was cut off, and keep the result.

    Raises:
        UsageError: for crops or settings that cannot be trained on.
        SupcamError: when the training diverges.
    """
    folder = context.state / context.key(job)
    work = folder / "work"
    resumed = work.exists()
    work.mkdir(parents=True, exist_ok=True)
    with _tracked(job, context) as run:
        start, busy = time.perf_counter(), _processor_seconds()
        result = _train(job, context.crops, work, run.log if run else None)
        result.seconds |= {"all": time.perf_counter() - start, "processor": _processor_seconds() - busy}
        result.resumed, result.device = resumed, tracking.device_name(job.settings.runtime.device)
        _keep(job, context, result, folder)
        if run:
            _log_result(run, job, result, context)
    shutil.rmtree(work)


def _processor_seconds() -> float:
    """Time that this process and its finished children have had of all cores."""
    return sum(os.times()[:4])


def _train(job: Job, crops: CropSet, work: Path, log: Log | None) -> RecipeResult:
    fold = job.fold
    train, validation, held_out = (crops.subset(rows) for rows in (fold.train, fold.validation, fold.held_out))
    if job.model == "forest":
        return run_forest(train, held_out, job.settings)
    return run_recipe(train, validation, held_out, job.settings, work, log)


def _keep(job: Job, context: JobContext, result: RecipeResult, folder: Path) -> None:
    table = pd.DataFrame(result.logits, columns=LOGITS)
    table.insert(0, "crop_id", context.crops.frame["crop_id"].iloc[job.fold.held_out].to_numpy())
    kept = {name: value for name, value in vars(result).items() if name not in ("logits", "metrics")}
    kept |= {"cell": job.name, "figures": result.metrics}
    # The predictions first: a job counts as finished once its result file is there.
    write_text(folder / PREDICTIONS, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))
    write_text(folder / RESULT, json.dumps(kept, indent=1, sort_keys=True) + "\n")


@contextmanager
def _tracked(job: Job, context: JobContext) -> Iterator[tracking.Run | None]:
    if context.parent is None:
        yield None
        return
    tags = {"supcam.row": job.row, "supcam.seed": job.seed, "supcam.fold": job.fold.number}
    tags["supcam.cell"] = context.key(job)
    with closing(tracking.Run.attach(*context.parent)) as above, above.child(job.name, tags) as run:
        values = job.settings.model_dump(mode="json", by_alias=True)
        run.log_params({name: values[name] for name in SECTIONS})
        yield run


def track_kept(job: Job, context: JobContext) -> None:
    """Record a run for a job that an earlier invocation finished, so that the run above is complete."""
    result = context.result(job)
    with _tracked(job, context) as run:
        if run is not None and result is not None:
            run.set_tags({"supcam.cell.kept": "true"})
            _log_result(run, job, result, context)


def _log_result(run: tracking.Run, job: Job, result: RecipeResult, context: JobContext) -> None:
    labels = context.crops.subset(job.fold.held_out).labels
    found: dict[str, Any] = rates(confusion(labels, result.logits.argmax(axis=1)))
    held_out = {f"held_out_{name}": float(value) for name, value in found.items() if value.ndim == 0}
    run.log(result.metrics | {f"seconds/{name}": value for name, value in result.seconds.items()} | held_out)
