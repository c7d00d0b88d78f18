"""Take a candidate through the gate and, if it passes, move it into production; every decision is recorded."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from supcam.files import write_text
from supcam.registry.card import ModelCard, load_card
from supcam.registry.comparison import compare_packages, latency_ms, shared_rows
from supcam.registry.evidence import ProjectCrops, checked_split, computed_answers, evidence_of, stored_answers
from supcam.registry.folds import out_of_fold
from supcam.registry.integrity import covers_every_file
from supcam.registry.notify import notify
from supcam.registry.reach import RegistryError
from supcam.registry.record import DECISION_TAG, MOVES, parsed, served, withdrawn
from supcam.registry.rules import PACKAGE_RULE, Decision, GateRule, RegisteredModel, Validation, decide
from supcam.registry.store import CANDIDATE, PREVIOUS, PRODUCTION, Registry, Tag, Version
from supcam.serving.engine import Engine, PackageError
from supcam.settings import PromoteSettings


def promote(
    *,
    tracking_uri: str,
    settings: PromoteSettings,
    candidate: str | int = CANDIDATE,
    validation: Validation | None = None,
    crops: ProjectCrops | None = None,
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
        crops: Those of the project, on which both models are run.
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
        if number is not None and _is_in_production(registry, version, number):
            return Decision("nothing to do", "production already is this model on these data", version.number, number)
        try:
            decision = _judged(registry, version, settings, validation, crops, force.strip())
            if decision.outcome == "promoted":
                registry.package(version)  # still the files that were judged
        except PackageError as error:
            rule = GateRule(PACKAGE_RULE, False, str(error), "whole, sound and as it was registered")
            decision = Decision("refused", f"{PACKAGE_RULE}: {error}", version.number, number, [rule])
        decision = replace(decision, production=number)
        event = _record(registry, version, decision)
    if event is not None:  # the lock is free again, however long the command takes
        notify(settings, {"model": registry.name, **event})
    return decision


def _is_in_production(registry: Registry, version: Version, number: int) -> bool:
    """Whether production is this content, with files that can be read."""
    content = version.tags.get(Tag.CONTENT)
    current = next((one for one in registry.versions() if one.number == number), None)
    return current is not None and current.tags.get(Tag.CONTENT) == content and registry.readable(number)


def _judged(
    registry: Registry,
    version: Version,
    settings: PromoteSettings,
    validation: Validation | None,
    crops: ProjectCrops | None,
    force: str,
) -> Decision:
    """The decision about a version from what its graph answers now; PackageError when its files are not sound."""
    package = registry.package(version)
    if not covers_every_file(package, version.tags):
        raise PackageError("an earlier supcam registered it, without a hash of card and answers. Run: dvc repro")
    card, reference = load_card(package), _reference(registry, version)
    rows = None
    if reference.package is not None:
        rows = shared_rows(package, reference.package, crops.types if crops is not None else None)
    tested = stored_answers(package)["sha256"]
    answers = computed_answers(package, [*tested, *([] if rows is None else rows["sha256"])], crops)
    evidence = evidence_of(package, card, crops, answers)
    if settings.folds and crops is not None:
        folds, no_folds = out_of_fold(crops.root.parent / settings.folds, card)
        evidence = replace(evidence, out_of_fold=folds, no_folds=no_folds)
    comparison = None
    if rows is not None and reference.package is not None:
        other = computed_answers(reference.package, rows["sha256"], crops)
        stored = (package, reference.package) if settings.allow_stored_answers else None
        comparison = compare_packages(rows, answers, other, stored)
    return decide(
        _registered_model(version, card),
        reference.model,
        settings,
        validation=validation or _recorded_validation(version),
        evidence=evidence,
        latency_ms=latency_ms(package),
        comparison=comparison,
        withdrawn=version.number in withdrawn(registry.events()),
        force=force,
        note=reference.note,
    )


@dataclass(frozen=True)
class _Reference:
    """The model that a candidate is compared with, its package if it can be read, and what is unusual about it."""

    model: RegisteredModel | None = None
    package: Path | None = None
    note: str = ""


def _reference(registry: Registry, candidate: Version) -> _Reference:
    """Production; where it was deleted or damaged, the last version that was in production and can be read."""
    events, aliases = registry.events(), registry.aliases()
    known = {version.number: version for version in registry.versions()}
    current = aliases.get(PRODUCTION)
    # Versions keep what became of them: a registry whose record was deleted has had a production all the same.
    tagged = [number for number, version in known.items() if version.tags.get(DECISION_TAG) in MOVES]
    before = dict.fromkeys([*served(events), *([aliases[PREVIOUS]] if PREVIOUS in aliases else []), *tagged])
    out = withdrawn(events)
    order = [number for number in before if number != current and number not in out]
    order = order if current is None else [current, *order]
    unread: list[int] = []
    for number in order:
        version = known.get(number)
        if version is None:
            unread.append(number)
            continue
        if version.tags.get(Tag.CONTENT) == candidate.tags.get(Tag.CONTENT):
            note = f"version {number}, which was in production, is the same model"
            return _Reference(_registered_model(version), None, note)
        try:
            package = registry.package(version)
            model = _registered_model(version, load_card(package))
            stored_answers(package)
            checked_split(package)
            Engine(package)
        except (PackageError, RegistryError):
            unread.append(number)
            continue
        note = "" if number == current else f"compared with version {number}, which was in production before"
        return _Reference(model, package, "; ".join(filter(None, (_unread(unread), note))))
    if not order:
        return _Reference()
    return _Reference(RegisteredModel(order[0], "", None))


def _unread(numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"version {listed}, which was in production, cannot be read" if numbers else ""


def _recorded_validation(version: Version) -> Validation | None:
    """The record of data validation that registration made; None when there is none, or it was damaged."""
    recorded = parsed(version.tags.get(Tag.VALIDATION, "")) or {}
    passed, looked_at = recorded.get("passed"), recorded.get("manifest_hash")
    return Validation(passed, looked_at) if isinstance(passed, bool) and isinstance(looked_at, str) else None


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
    return max(versions, key=lambda version: (_metric(version, metric), version.number))


def _of_run(versions: list[Version], run_id: str) -> list[Version]:
    """Versions that a run registered, itself or the `mlflow run` above it; the beginning of its id is enough."""
    runs = {version.number: (version.run_id, version.tags.get(Tag.RUN, "")) for version in versions}
    found = {name for names in runs.values() for name in names if run_id and name.startswith(run_id)}
    if run_id not in found and len(found) > 1:
        raise RegistryError(f"run {run_id!r} is ambiguous: {', '.join(sorted(found))}. Give more of its id.")
    chosen = run_id if run_id in found else next(iter(found), None)
    return [version for version in versions if chosen in runs[version.number]]


def _metric(version: Version, name: str) -> float:
    """A validation metric of a version; one that is missing or damaged is below all others."""
    try:
        value = float(version.tags.get(Tag.METRIC + name, ""))
    except ValueError:
        return -math.inf
    return value if math.isfinite(value) else -math.inf


def write_decision(decision: Decision, out: Path) -> None:
    """Write ``decision.json``, all or nothing."""
    write_text(out, json.dumps(asdict(decision), indent=2, sort_keys=True) + "\n")


def _registered_model(version: Version, card: ModelCard | None = None) -> RegisteredModel:
    return RegisteredModel(version.number, version.tags.get(Tag.CONTENT, ""), card, version.tags.get(Tag.SHIPPED, ""))


def _record(registry: Registry, version: Version, decision: Decision) -> dict[str, Any] | None:
    """Write a decision into the record: the event, or None for a refusal that is recorded already."""
    promoted, failed = decision.outcome == "promoted", {rule.name for rule in decision.rules if rule.passed is False}
    event = {
        "action": "forced" if promoted and failed else decision.outcome,
        "version": version.number,
        "from": decision.production,
        "reason": decision.reason,
        "decision": asdict(decision),
    }
    if promoted:
        return registry.move_production(version.number, event)
    last = (registry.events() or [{}])[-1]
    # A pipeline that runs again refuses for the same reasons: that is the same event.
    if (
        any(last.get(key) != event[key] for key in ("action", "version", "from"))
        or set(last.get("failed", ())) != failed
    ):
        return registry.append(event)
    return None
