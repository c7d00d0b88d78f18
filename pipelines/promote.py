"""Stage promote: register the model as candidate and, if it passes the gate, move it into production."""

import json

from supcam import tracking
from supcam.data.manifest import read_manifest
from supcam.errors import GateRefused
from supcam.registry.evidence import ProjectCrops
from supcam.registry.promotion import promote as decide
from supcam.registry.promotion import write_decision
from supcam.registry.registration import register_candidate
from supcam.registry.rules import Validation
from supcam.registry.store import Version
from supcam.stages.command import main
from supcam.stages.stage import Stage, upstream_tags


def register(stage: Stage) -> str:
    """Register the packaged model, once, and point ``candidate`` at it."""
    version = _register(stage)
    return f"version {version.number} of {stage.settings.promote.model_name} is candidate"


def promote(stage: Stage) -> str:
    """Register, then decide. A refusal by metrics is a result and ends well; any other stops the pipeline."""
    version = _register(stage)
    root = stage.workspace.root
    decision = decide(
        tracking_uri=tracking.tracking_uri(root),
        settings=stage.settings.promote,
        candidate=version.number,
        validation=_validation(stage),
        crops=ProjectCrops(read_manifest(stage.read("split/manifest.csv")), stage.data),
        experiment=tracking.in_dvc_experiment(root),
    )
    record = stage.out / "decision.json"
    # Where there is nothing to do, the record of how this model came into production stays.
    if decision.outcome != "nothing to do" or not record.is_file():
        write_decision(decision, record)
    if decision.stops_pipeline:
        raise GateRefused(decision.refusal)
    return f"version {version.number}: {decision.outcome} ({decision.reason})"


def _register(stage: Stage) -> Version:
    return register_candidate(
        stage.read("evaluate/package"),
        run_id=stage.run.run_id,
        tracking_uri=tracking.tracking_uri(stage.workspace.root),
        validation=_validation(stage),
        tags=upstream_tags(stage.workspace),
        name=stage.settings.promote.model_name,
    )


def _validation(stage: Stage) -> Validation:
    report = json.loads(stage.read("validate/validation.json").read_text(encoding="utf-8"))
    return Validation(report["passed"], report["manifest_hash"])


if __name__ == "__main__":
    main("promote", promote)
