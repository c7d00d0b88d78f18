"""Stage promote: register the model as candidate and, if it passes the gate, move it into production."""

import json
from collections.abc import Mapping
from typing import Any

from supcam import tracking
from supcam.data.manifest import read_manifest
from supcam.errors import GateRefused
from supcam.registry.evidence import ProjectCrops
from supcam.registry.promotion import promote as decide
from supcam.registry.promotion import write_decision
from supcam.registry.registration import register_candidate
from supcam.registry.rules import Validation
from supcam.registry.store import Tag, Version
from supcam.stages.command import main
from supcam.stages.stage import Stage, upstream_inputs


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
    upstream = upstream_inputs(stage.workspace)
    stage.run.log_text(json.dumps(upstream, indent=1), "upstream.json")
    return register_candidate(
        stage.read("evaluate/package"),
        run_id=stage.run.run_id,
        tracking_uri=tracking.tracking_uri(stage.workspace.root),
        validation=_validation(stage),
        tags=_origin(stage, upstream),
        name=stage.settings.promote.model_name,
    )


def _origin(stage: Stage, upstream: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Tags of a version: the run above, the run that fine-tuned the model, and seconds of training where known.

    Outputs that DVC took from its cache were trained by a run that this store may not know.
    """
    pretrained, tuned = (_run_of(stage, name, upstream[name]) for name in ("pretrain", "finetune"))
    tags = {Tag.RUN: stage.workspace.parent} if stage.workspace.parent else {}
    if tuned is not None:
        tags[Tag.TRAINED_BY] = tuned.info.run_id
    if pretrained is not None and tuned is not None:
        spans = [run.info.end_time - run.info.start_time for run in (pretrained, tuned)]
        tags[Tag.SECONDS] = str(sum(spans) // 1000)
    return tags


def _run_of(stage: Stage, name: str, inputs: Mapping[str, Any]) -> Any | None:
    experiment = stage.run.experiment_id
    return stage.run.ask(lambda client: tracking.run_of(client, experiment, name, inputs))


def _validation(stage: Stage) -> Validation:
    report = json.loads(stage.read("validate/validation.json").read_text(encoding="utf-8"))
    return Validation(report["passed"], report["manifest_hash"])


if __name__ == "__main__":
    main("promote", promote)
