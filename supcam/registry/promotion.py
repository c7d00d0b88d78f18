"""Take a candidate through the gate and, if it passes, move it into production; every decision is recorded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from supcam.errors import GateRefused, UsageError
from supcam.files import write_text
from supcam.registry.card import ModelCard, load_card
from supcam.registry.comparison import compare_packages, latency_ms
from supcam.registry.reach import RegistryError
from supcam.registry.rules import Decision, RegisteredModel, Validation, decide
from supcam.registry.store import (
    CANDIDATE,
    CONTENT_TAG,
    DATA_TAG,
    METRIC_TAG,
    PRODUCTION,
    RUN_TAG,
    SHIPPED_TAG,
    VALIDATION_TAG,
    Registry,
    Version,
)
from supcam.serving.engine import PackageError, verify_package
from supcam.settings import PromoteSettings


def promote(
    *,
    tracking_uri: str,
    settings: PromoteSettings,
    candidate: str | int = CANDIDATE,
    validation: Validation | None = None,
    crops: Mapping[str, Path] | None = None,
    experiment: bool = False,
    force: str = "",
    out: Path | None = None,
) -> Decision:
    """Decide about a candidate, move the aliases if it passes, and write the decision into the registry.

    Calling it again changes nothing: production that already is this content is left alone, and a refusal for the
    same reasons is recorded once. Only one process at a time gets through.

    Args:
        tracking_uri: Tracking and registry address.
        settings: Of the gate.
        candidate: Alias or number of the version.
        validation: Data validation of the candidate's data; by default the record made when it was registered.
        crops: Files of test crops by SHA-256, as far as they are available (see :func:`crops_by_hash`).
        experiment: In a DVC experiment only ``candidate`` moves, never production.
        force: Reason to promote in spite of the metrics.
        out: Where to write ``decision.json``.

    Raises:
        RegistryError: when the candidate does not exist or its files cannot be fetched.
        Busy: when another promotion is running.
    """
    registry = Registry(tracking_uri, settings.model_name)
    with registry.lock():
        version = registry.resolve(candidate)
        decision = _decide(registry, version, settings, validation, crops or {}, experiment, force.strip())
        _record(registry, version, decision)
    if out is not None:
        write_decision(decision, out)
    return decision


def promote_or_raise(**arguments: Any) -> Decision:
    """As :func:`promote`, with a refusal as an error: what the command line does.

    Raises:
        GateRefused: when the candidate did not pass.
    """
    decision = promote(**arguments)
    if decision.outcome == "refused":
        raise GateRefused(f"version {decision.version} was refused: {decision.reason}. Production stays as it was.")
    return decision


def best_candidate(
    registry: Registry, metric: str, *, run_id: str | None = None, data_hash: str | None = None
) -> Version:
    """The version of a run, or the version of the present data that is best by its validation metric.

    Raises:
        RegistryError: when the run registered no model, or no model was registered for the data.
    """
    versions = registry.versions()
    if run_id is not None:
        versions = [version for version in versions if run_id in (version.run_id, version.tags.get(RUN_TAG))]
        if not versions:
            raise RegistryError(f"run {run_id!r} registered no model {registry.name}. See: supcam models")
    elif data_hash is not None:
        versions = [version for version in versions if version.tags.get(DATA_TAG) == data_hash]
    if not versions:
        raise RegistryError(f"no model {registry.name} was registered for the present data. Run: dvc repro")
    return max(versions, key=lambda version: (float(version.tags.get(METRIC_TAG + metric, "-inf")), version.number))


def crops_by_hash(manifest: pd.DataFrame, root: Path) -> dict[str, Path]:
    """Files of a manifest by the SHA-256 of their bytes, those that exist below ``root``."""
    found = {digest: root / path for digest, path in zip(manifest["sha256"], manifest["path"], strict=True)}
    return {digest: path for digest, path in found.items() if path.is_file()}


def write_decision(decision: Decision, out: Path) -> None:
    """Write ``decision.json``, all or nothing."""
    write_text(out, json.dumps(decision.as_dict(), indent=2, sort_keys=True) + "\n")


def _decide(
    registry: Registry,
    version: Version,
    settings: PromoteSettings,
    validation: Validation | None,
    crops: Mapping[str, Path],
    experiment: bool,
    force: str,
) -> Decision:
    number = registry.aliases().get(PRODUCTION)
    if experiment:
        reason = "a DVC experiment moves only the alias candidate, never production"
        return Decision("candidate only", reason, version.number, number)
    current = registry.version(number) if number is not None else None
    if current is not None and current.tags.get(CONTENT_TAG) == version.tags.get(CONTENT_TAG):
        same = _registered_model(version), _registered_model(current)
        return decide(*same, settings, validation=None, comparison=None, latency_ms=0.0)
    package = registry.package(version)
    candidate = _registered_model(version, load_card(package))
    production, production_package = _in_production(registry, current)
    return decide(
        candidate,
        production,
        settings,
        validation=validation or recorded_validation(version),
        comparison=compare_packages(package, production_package, crops) if production_package is not None else None,
        latency_ms=latency_ms(package),
        withdrawn=_withdrawn(registry, version),
        force=force,
    )


def recorded_validation(version: Version) -> Validation | None:
    """The data validation that was recorded when the version was registered."""
    try:
        values = json.loads(version.tags.get(VALIDATION_TAG, ""))
        return Validation(bool(values["passed"]), str(values["manifest_hash"]))
    except (ValueError, KeyError, TypeError):
        return None


def _in_production(registry: Registry, current: Version | None) -> tuple[RegisteredModel | None, Path | None]:
    if current is None:
        return None, None
    try:
        package = registry.package(current)
        verify_package(package)
        return _registered_model(current, load_card(package)), package
    except (PackageError, RegistryError):
        # What cannot be read any more cannot be compared with; the floors decide, and the decision says so.
        return _registered_model(current), None


def _registered_model(version: Version, card: ModelCard | None = None) -> RegisteredModel:
    return RegisteredModel(version.number, version.tags.get(CONTENT_TAG, ""), card, version.tags.get(SHIPPED_TAG, ""))


def _withdrawn(registry: Registry, version: Version) -> bool:
    """Whether the last time this version was moved, a rollback took it out of production."""
    for event in reversed(registry.events()):
        if event["action"] == "refused":
            continue
        if event["version"] == version.number:
            return False
        if event["action"] == "rolled back" and event["from"] == version.number:
            return True
    return False


def _record(registry: Registry, version: Version, decision: Decision) -> None:
    if decision.outcome not in ("promoted", "refused"):
        return
    forced = decision.forced and any(rule.passed is False for rule in decision.rules)
    action = "forced" if decision.outcome == "promoted" and forced else decision.outcome
    event = {
        "action": action,
        "version": version.number,
        "from": decision.production,
        "reason": decision.reason,
        "decision": decision.as_dict(),
    }
    if decision.outcome == "promoted":
        registry.move_production(version.number, event)
    elif not _recorded_before(registry, decision):
        registry.append(event)


def _recorded_before(registry: Registry, decision: Decision) -> bool:
    """Whether the last event is this very refusal, as when a pipeline runs again."""
    last = next(reversed(registry.events()), None)
    if last is None or last["action"] != "refused" or last["version"] != decision.version:
        return False
    failed = {rule.name for rule in decision.rules if rule.passed is False}
    return bool(last["from"] == decision.production and failed == set(last.get("failed", ())))


def check_force(force: str | None) -> str:
    """The reason given with ``--force``, trimmed; "" when it was not given.

    Raises:
        UsageError: when it was given without a reason.
    """
    if force is not None and not force.strip():
        raise UsageError("--force = '' has no reason; give one that says why the metrics do not count, and run again.")
    return (force or "").strip()
