"""Stage promote: register the trained network as `supcam-segmentation` and let it through its own gate.

    python promote.py [--project ../..] [--out outputs]

Both networks, candidate and production, segment the same held-out composites. The candidate is promoted when its
panoptic quality is above the watershed's and at most `margin` below that of production. Registering the same network
again changes nothing. Exit code 0 whatever the gate decides, as for the stages of the project.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from quality import panoptic
from train import HELD_OUT, HERE, judge

from supcam.files import write_text
from supcam.registry.package import write_checksums
from supcam.registry.rules import Decision, GateRule
from supcam.registry.store import CANDIDATE, PRODUCTION, Registry, Tag, Version
from supcam.serving.engine import content_hash, file_hash
from supcam.tracking.project import tracking_uri
from supcam.tracking.store import open_client, project_experiment

NAME = "supcam-segmentation"


def main() -> None:
    """Read the command line, register, decide, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--project", type=Path, default=HERE.parents[1])
    parser.add_argument("--out", type=Path, default=HERE / "outputs")
    given = parser.parse_args()
    margin = yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8"))["promote"]["margin"]
    decision = promote(given.out, given.project, margin)
    write_text(given.out.with_name("decision.json"), json.dumps(asdict(decision), indent=2, sort_keys=True) + "\n")
    print(f"version {decision.version}: {decision.outcome} ({decision.reason})")


def promote(trained: Path, project: Path, margin: float) -> Decision:
    """Register what ``trained`` holds and decide about it."""
    client = open_client(project)
    registry = Registry(tracking_uri(project), NAME, create=True)
    _ensure(client)
    with registry.lock(wait=60.0):
        version = _registered(registry, client, trained, project)
        client.set_registered_model_alias(NAME, CANDIDATE, str(version.number))
        number = registry.aliases().get(PRODUCTION)
        if number == version.number:
            return Decision("unchanged", "this network is in production already", version.number, number)
        rules = [_above_watershed(trained)]
        if number is not None:
            rules.append(_not_worse(registry, registry.version(number), trained, margin))
        failed = [rule for rule in rules if not rule.passed]
        reason = "; ".join(f"{rule.name} {rule.value:.3f}, allowed: {rule.allowed}" for rule in failed or rules)
        decision = Decision("refused" if failed else "promoted", reason, version.number, number, rules)
        event: dict[str, Any] = {
            "action": decision.outcome, "version": version.number, "from": number, "reason": reason,
            "decision": asdict(decision),
        }  # fmt: skip
        if not failed:
            registry.move_production(version.number, event)
        elif (registry.events() or [{}])[-1].get("version") != version.number:
            registry.append(event)
        return decision


def _above_watershed(trained: Path) -> GateRule:
    metrics = json.loads((trained / "metrics.json").read_text(encoding="utf-8"))
    floor = metrics["watershed_pq"]
    return GateRule("panoptic quality", metrics["pq"] > floor, metrics["pq"], f"above the watershed's {floor:.3f}")


def _not_worse(registry: Registry, production: Version, trained: Path, margin: float) -> GateRule:
    held_out = trained / HELD_OUT
    new = panoptic(judge(trained / "model.onnx", held_out))
    old = panoptic(judge(registry.package(production) / "model.onnx", held_out))
    allowed = f"at least {old - margin:.3f}, production's {old:.3f} less {margin}"
    return GateRule("panoptic quality beside production", new >= old - margin, new, allowed)


def _ensure(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(NAME, description="Chromosomes of clusters with overlaps, pixel by pixel.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered(registry: Registry, client: Any, trained: Path, project: Path) -> Version:
    """The version of this very network, made if there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        model = _save(trained / "model.onnx", Path(scratch) / "model")
        content = content_hash(model)
        same = [version for version in registry.versions() if version.tags.get(Tag.CONTENT) == content]
        if same:
            return same[-1]
        experiment = project_experiment(client, project)
        run = client.create_run(experiment, int(time.time() * 1000), {}, "segmentation").info.run_id
        for name, value in json.loads((trained / "metrics.json").read_text(encoding="utf-8")).items():
            client.log_metric(run, name, value)
        client.log_artifacts(run, str(model), "network")
    client.set_terminated(run)
    made = client.create_model_version(NAME, f"runs:/{run}/network", run, tags={Tag.CONTENT: content})
    return registry.version(int(made.version))


def _save(network: Path, out: Path) -> Path:
    """An MLflow model of the ONNX flavour, so that mlflow.pyfunc loads it: ink (B, 1, H, W) to probabilities.

    The same network gives the same bytes. ``SHA256SUMS`` makes it a package, whose files the registry compares.
    """
    import mlflow.onnx
    import onnx
    from mlflow.models import Model

    mlflow.onnx.save_model(
        onnx.load(network),
        str(out),
        mlflow_model=Model(utc_time_created="1970-01-01 00:00:00.000000", model_uuid=file_hash(network)[:32]),
        pip_requirements=["onnxruntime>=1.20", "numpy>=2.0"],
        save_as_external_data=False,
    )
    write_checksums(out)
    return out


if __name__ == "__main__":
    main()
