"""Take a candidate through the gate and, if it passes, move it into production; every decision is recorded."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from supcam.files import write_text
from supcam.registry.card import ModelCard, load_card
from supcam.registry.comparison import compare_packages, latency_ms
from supcam.registry.reach import RegistryError
from supcam.registry.record import parsed
from supcam.registry.rules import Decision, RegisteredModel, Validation, decide
from supcam.registry.store import CANDIDATE, PRODUCTION, Registry, Tag, Version
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
) -> Decision:
    """Decide about a candidate, move the aliases if it passes, and write the decision into the registry.

    Calling it again changes nothing: production that already is this content is left alone, and a refusal for the
    same reasons is recorded once. Only one process at a time gets through.

    Args:
        tracking_uri: Tracking and registry address.
        settings: Of the gate.
        candidate: Alias or number of the version.
        validation: Of the candidate's data; by default the record made when it was registered.
        crops: Files of test crops by SHA-256, as far as they are available (see :func:`crops_by_hash`).
        experiment: In a DVC experiment only ``candidate`` moves, never production.
        force: Reason to promote in spite of the metrics.

    Raises:
        RegistryError: when the candidate does not exist or its files cannot be fetched.
        Busy: when another promotion is running.
    """
    registry = Registry(tracking_uri, settings.model_name)
    with registry.lock():
        version = registry.resolve(candidate)
        number = registry.aliases().get(PRODUCTION)
        if experiment:
            reason = "a DVC experiment moves only the alias candidate, never production"
            return Decision("candidate only", reason, version.number, number)
        current = registry.version(number) if number is not None else None
        if current is not None and current.tags.get(Tag.CONTENT) == version.tags.get(Tag.CONTENT):
            same = _registered_model(version), _registered_model(current)
            return decide(*same, settings, validation=None, comparison=None, latency_ms=0.0)
        recorded = parsed(version.tags.get(Tag.VALIDATION, "")) or {}
        package = registry.package(version)
        production, other = _in_production(registry, current)
        decision = decide(
            _registered_model(version, load_card(package)),
            production,
            settings,
            validation=validation or (Validation(**recorded) if set(recorded) == {"passed", "manifest_hash"} else None),
            comparison=compare_packages(package, other, crops or {}) if other is not None else None,
            latency_ms=latency_ms(package),
            withdrawn=_withdrawn(registry, version),
            force=force.strip(),
        )
        _record(registry, version, decision)
    return decision


def best_candidate(
    registry: Registry, metric: str, *, run_id: str | None = None, data_hash: str | None = None
) -> Version:
    """The best version by its validation metric, of a run or of the present data; RegistryError when there is none."""
    versions = registry.versions()
    if run_id is not None:
        versions = _of_run(versions, run_id)
        if not versions:
            raise RegistryError(f"run {run_id!r} registered no model {registry.name}. See: supcam models")
    elif data_hash is not None:
        versions = [version for version in versions if version.tags.get(Tag.DATA) == data_hash]
    if not versions:
        raise RegistryError(f"no model {registry.name} was registered for the present data. Run: dvc repro")
    return max(versions, key=lambda version: (float(version.tags.get(Tag.METRIC + metric, "-inf")), version.number))


def _of_run(versions: list[Version], run_id: str) -> list[Version]:
    """Versions that a run registered, itself or the `mlflow run` above it; the beginning of its id is enough."""
    runs = {version.number: (version.run_id, version.tags.get(Tag.RUN, "")) for version in versions}
    found = {name for names in runs.values() for name in names if run_id and name.startswith(run_id)}
    if run_id not in found and len(found) > 1:
        raise RegistryError(f"run {run_id!r} is ambiguous: {', '.join(sorted(found))}. Give more of its id.")
    chosen = run_id if run_id in found else next(iter(found), None)
    return [version for version in versions if chosen in runs[version.number]]


def crops_by_hash(manifest: pd.DataFrame, root: Path) -> dict[str, Path]:
    """Files of a manifest by the SHA-256 of their bytes, those that exist below ``root``."""
    found = {digest: root / path for digest, path in zip(manifest["sha256"], manifest["path"], strict=True)}
    return {digest: path for digest, path in found.items() if path.is_file()}


def write_decision(decision: Decision, out: Path) -> None:
    """Write ``decision.json``, all or nothing."""
    write_text(out, json.dumps(asdict(decision), indent=2, sort_keys=True) + "\n")


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
    return RegisteredModel(version.number, version.tags.get(Tag.CONTENT, ""), card, version.tags.get(Tag.SHIPPED, ""))


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
    promoted, failed = decision.outcome == "promoted", {rule.name for rule in decision.rules if rule.passed is False}
    event = {
        "action": "forced" if promoted and failed else decision.outcome,
        "version": version.number,
        "from": decision.production,
        "reason": decision.reason,
        "decision": asdict(decision),
    }
    if promoted:
        registry.move_production(version.number, event)
        return
    last = (registry.events() or [{}])[-1]
    # A pipeline that runs again refuses for the same reasons: that is the same event.
    if (
        any(last.get(key) != event[key] for key in ("action", "version", "from"))
        or set(last.get("failed", ())) != failed
    ):
        registry.append(event)
