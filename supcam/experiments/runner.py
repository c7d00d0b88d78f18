"""The ablation: every row, seed and fold run or taken from an earlier run, then one table, figures and JSON."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supcam import tracking
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash
from supcam.errors import SupcamError
from supcam.experiments.figures import draw_rows, draw_sweep
from supcam.experiments.jobs import Job, JobContext
from supcam.experiments.parts import Fold
from supcam.experiments.pool import JobCounts, run_jobs
from supcam.experiments.rows import Row, chosen_rows, job_settings, with_seed
from supcam.experiments.table import comparison_table, gather, plain_table, write_predictions
from supcam.files import write_text
from supcam.progress import Progress
from supcam.settings import Settings

RESULT = "ablation.json"


def ablate(
    crops: CropSet,
    folds: Sequence[Fold],
    settings: Settings,
    into: Path,
    *,
    state: Path,
    root: Path,
    run: tracking.Run | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], JobCounts]:
    """Run the rows and sweeps of ``settings.ablation`` on the same folds and seeds, and write table, figures and JSON.

    Finished jobs are kept in the folder ``state``; ``root`` is the project whose commit the results name. Jobs get runs
    below ``run``, without it none. Returns what ``ablation.json`` holds, and how the jobs went.

    Raises:
        UsageError: for rows, settings or crops that cannot be compared; nothing was trained then.
        SupcamError: when no row finished.
    """
    rows = chosen_rows(settings)
    jobs = {name: _jobs(row, changed, folds, settings) for name, (row, changed) in rows.items()}
    context = JobContext(crops, state, (run.root, run.run_id, run.experiment_id) if run else None)
    counts = run_jobs([job for group in jobs.values() for job in group], context, settings.ablation.workers, progress)
    gathered = {name: gather(group, context) for name, group in jobs.items()}
    answers = {name: row for name, row in gathered.items() if row is not None}
    if not any(name in settings.ablation.rows for name in answers):
        raise SupcamError(f"no row finished: {'; '.join(f'{name}: {why}' for name, why in counts.failed.items())}")
    chosen = settings.ablation
    table = comparison_table(answers, chosen.reference, settings.evaluate, chosen.figure)
    content: dict[str, Any] = {
        "kind": "ablation",
        "origin": origin(root, next(iter(answers.values())).results[0].device),
        "manifest_hash": manifest_hash(crops.frame),
        "parts": f"{len(folds)} grouped folds" if chosen.folds else "the split's test part",
        "seeds": chosen.seeds,
        "reference": chosen.reference,
        "figure": chosen.figure,
        "rows": {
            name: {"description": rows[name][0].description, **table[name]} for name in table if name in chosen.rows
        },
        "sweeps": {
            setting: [{"at": value, **table[f"{setting}={value}"]} for value in values if f"{setting}={value}" in table]
            for setting, values in chosen.sweeps.items()
        },
        "failed": counts.failed,
        "settings": settings.model_dump(mode="json", by_alias=True),
    }
    write_text(into / RESULT, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(into / "table.csv", plain_table(table).to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    draw_rows(content, into / "rows.png")
    for setting, points in content["sweeps"].items():
        draw_sweep(setting, points, content["figure"], into / f"sweep_{setting.replace('.', '_')}.png")
    for name in content["rows"]:
        write_predictions(answers[name], into / "predictions" / f"{name}.csv")
    return content, counts


def _jobs(row: Row, changed: Settings, folds: Sequence[Fold], settings: Settings) -> list[Job]:
    """The jobs of one row by seed and fold; ``changed`` are the settings with the row's overrides."""
    jobs = []
    for seed in range(settings.runtime.seed, settings.runtime.seed + settings.ablation.seeds):
        seeded = with_seed(changed, seed)
        for fold in folds:
            own = job_settings(row, seeded, settings.compose.count, len(fold.train))
            jobs.append(Job(row.name, own, fold, row.model))
    return jobs


def origin(root: Path, device: str) -> str:
    """Date, commit, whether files differed from it, device and Python of metrics computed now."""
    state = tracking.git_state(root)
    commit = (state.commit or "no commit")[:12] + (" with changes" if state.dirty else "")
    python = tracking.package_versions()["python"]
    return f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {device}, Python {python}"
