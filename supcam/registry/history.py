"""What is registered, what happened to it, the way back, and what two versions differ in."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from supcam.errors import UsageError
from supcam.registry.card import load_card
from supcam.registry.reach import RegistryError
from supcam.registry.record import DECISION_TAG, ROLLED_BACK, served, withdrawn
from supcam.registry.store import PREVIOUS, PRODUCTION, Registry, Tag
from supcam.serving.engine import PackageError
from supcam.tracking.runs import flat

_PARTS = {"test": Tag.TEST, "validation": Tag.METRIC}
_METRICS = ("accuracy", "macro_sensitivity")


def models(registry: Registry) -> pd.DataFrame:
    """One row a version, newest first: what it is, how good (NaN where it was not recorded), what made it."""
    names: dict[int, list[str]] = {}
    for alias, number in sorted(registry.aliases().items()):
        names.setdefault(number, []).append(alias)
    rows = []
    for version in registry.versions():
        tags = version.tags
        rows.append(
            {
                "version": version.number,
                "aliases": ", ".join(names.get(version.number, [])),
                "registered": version.created.strftime("%Y-%m-%d %H:%M"),
                "decision": tags.get(DECISION_TAG, ""),
                **{f"{part}_{name}": _number(tags, tag + name) for part, tag in _PARTS.items() for name in _METRICS},
                "training_seconds": _number(tags, Tag.SECONDS),
                "data": tags.get(Tag.DATA, ""),
                "code": tags.get(Tag.CODE, ""),
                "commit": tags.get(Tag.COMMIT, ""),
                "run": version.run_id,
            }
        )
    numbers = [f"{part}_{name}" for part in _PARTS for name in _METRICS] + ["training_seconds"]
    texts = ["data", "code", "commit", "run"]
    return pd.DataFrame(rows, columns=["version", "aliases", "registered", "decision", *numbers, *texts])


def _number(tags: Mapping[str, str], name: str) -> float:
    """A number of a tag; NaN where it is missing or damaged."""
    try:
        return float(tags.get(name, "nan"))
    except ValueError:
        return math.nan


def history(registry: Registry) -> pd.DataFrame:
    """The record, newest first: number, when (UTC), who, action, version, from (the version before), why."""
    columns = ["number", "when", "who", "action", "version", "from", "reason"]
    frame = pd.DataFrame(registry.events()[::-1], columns=columns).rename(columns={"reason": "why"})
    return frame.astype({"version": "Int64", "from": "Int64"})


def rollback(registry: Registry, reason: str = "", *, to: int | None = None) -> dict[str, Any]:
    """Put the version before, or one that was in production before, back into production; recorded.

    The version before is ``previous``; where production was deleted, the last version that was in production. Only a
    version whose files are those that were registered comes back.

    Raises:
        RegistryError: when there is no such version, or its files cannot be read.
        UsageError: when the version never was in production, is there now, or was itself rolled back and is not named.
        Busy: when a promotion is running.
    """
    with registry.lock():
        events, aliases = registry.events(), registry.aliases()
        current, existing = aliases.get(PRODUCTION), {version.number for version in registry.versions()}
        if to is None:
            target = _version_before(registry, events, existing, current, aliases.get(PREVIOUS))
        else:
            target = registry.version(to).number
        _check_target(registry, events, existing, target, current)
        why = reason.strip() or "no reason given"
        event = {"action": ROLLED_BACK, "version": target, "from": current, "reason": why}
        return registry.move_production(target, event)


def _version_before(
    registry: Registry, events: list[dict[str, Any]], existing: set[int], current: int | None, previous: int | None
) -> int:
    out = withdrawn(events)
    if current is None:
        before = [number for number in served(events) if number not in out]
        choice = next((number for number in [*before, previous] if number in existing), None)
        if choice is None and not served(events):
            registry.resolve(PRODUCTION)  # it says that nothing was ever promoted
    else:
        choice = previous if previous in existing else None
    if choice is None:
        why = "its version was deleted" if previous else f"none was in production before version {current}"
        others = _others(events, existing, current)
        raise RegistryError(f"model {registry.name} has no alias {PREVIOUS!r} to go back to: {why}. {others}")
    if choice in out:
        raise UsageError(
            f"version {choice}, the one before, was itself taken out of production by a rollback. "
            f"{_others(events, existing, current)}"
        )
    return int(choice)


def _others(events: list[dict[str, Any]], existing: set[int], current: int | None) -> str:
    """How to name another version: those that were in production and exist."""
    was = [str(number) for number in served(events) if number in existing and number != current]
    if not was:
        return "No other version was in production; bring a new one: supcam promote"
    return f"Name the version: supcam rollback --to N; those that were in production: {', '.join(was)}"


def diff(registry: Registry, first: str | int, second: str | int) -> pd.DataFrame:
    """What the cards of two versions (aliases or numbers) differ in: entry, first, second, difference of numbers.

    Raises:
        RegistryError: when one of them does not exist.
        PackageError: when a card is of another format.
    """
    cards = [_entries(registry, which) for which in (first, second)]
    rows = [(entry, cards[0].get(entry), cards[1].get(entry)) for entry in sorted(cards[0].keys() | cards[1].keys())]
    changed = [(entry, *map(_text, values), _difference(*values)) for entry, *values in rows if values[0] != values[1]]
    return pd.DataFrame(changed, columns=["entry", str(first), str(second), "difference"], dtype=object)


def _difference(first: Any, second: Any) -> float | None:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (first, second))
    return round(second - first, 10) if numbers else None


def _check_target(
    registry: Registry, events: list[dict[str, Any]], existing: set[int], target: int, current: int | None
) -> None:
    if target == current:
        raise UsageError(f"version {target} is in production already. See: supcam history")
    if target not in served(events):
        raise UsageError(f"version {target} never was in production. {_others(events, existing, current)}")
    try:
        registry.package(registry.version(target))
    except (RegistryError, PackageError) as error:
        raise RegistryError(
            f"version {target} cannot come back: {error}. {_others(events, existing - {target}, current)}"
        ) from None


def _entries(registry: Registry, which: str | int) -> dict[str, Any]:
    """The card of a version, entries by name as ``section.key``."""
    version = registry.resolve(which)
    try:
        return flat(load_card(registry.package(version)).model_dump(mode="json"))
    except PackageError as error:
        raise PackageError(f"version {version.number}: {error}") from None


def _text(value: Any) -> Any:
    """A list as text: a cell of a table holds one value."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value
