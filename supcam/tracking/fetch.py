"""Outputs of earlier runs, taken back from their artifacts."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supcam.errors import UsageError
from supcam.tracking.store import get_run, open_client

OUTPUTS = "outputs"


def fetch_outputs(root: Path, run_id: str, into: Path) -> list[str]:
    """Download the stage outputs of a run into ``into/outputs``.

    Taken are the run's own outputs, those of the stage runs below it and, for what is still missing, those of the run
    that it took its inputs from.

    Returns:
        Names of the stages found.

    Raises:
        UsageError: when the run does not exist or holds no stage outputs.
    """
    client = open_client(root)
    found: list[str] = []
    for source in _lineage(client, run_id):
        for item in client.list_artifacts(source, OUTPUTS):
            stage = Path(item.path).name
            if item.is_dir and stage not in found:
                _download(client, source, item.path, into)
                found.append(stage)
    if not found:
        raise UsageError(
            f"run {run_id!r} holds no stage outputs, so from_run cannot use it. Name a run of `mlflow run .` "
            "(the MLflow page lists them: supcam ui)."
        )
    return found


def _lineage(client: Any, run_id: str) -> Iterator[str]:
    seen: set[str] = set()
    upstream: str | None = run_id
    while upstream and upstream not in seen:
        seen.add(upstream)
        run = get_run(client, upstream)
        children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{upstream}'")
        yield upstream
        yield from (child.info.run_id for child in children)
        sources = [item.data.tags.get("supcam.from_run") for item in (run, *children)]
        upstream = next((source for source in sources if source), None)


def _download(client: Any, run_id: str, path: str, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        found = client.download_artifacts(run_id, path, scratch)
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(found, target)
