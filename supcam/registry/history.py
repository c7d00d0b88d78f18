"""What is registered, what happened to it, the way back, and what two versions differ in."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from supcam.errors import UsageError
from supcam.registry.card import load_card
from supcam.registry.reach import RegistryError
from supcam.registry.record import DECISION_TAG
from supcam.registry.store import PREVIOUS, PRODUCTION, Registry, Tag
from supcam.serving.engine import PackageError

_PARTS = {"test": Tag.TEST, "validation": Tag.METRIC}
_METRICS = ("accuracy", "macro_sensitivity")
_MOVES = ("promoted", "forced", "rolled back")


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
    return frame.astype({"from": "Int64"})


def rollback(registry: Registry, reason: str = "", *, to: int | None = None) -> dict[str, Any]:
    """Put ``previous``, or a version that was in production before, back into production; recorded.

    Raises:
        RegistryError: when there is no such version.
        UsageError: when the version never was in production, or is there now.
        Busy: when a promotion is running.
    """
    with registry.lock():
        aliases = registry.aliases()
        current = registry.resolve(PRODUCTION).number
        if to is None and PREVIOUS not in aliases:
            first = f"version {current} is the first in production. There is nothing to go back to."
            raise RegistryError(f"model {registry.name} has no alias {PREVIOUS!r}: {first}")
        target = aliases[PREVIOUS] if to is None else registry.version(to).number
        _check_target(registry, target, current)
        why = reason.strip() or "no reason given"
        event = {"action": "rolled back", "version": target, "from": current, "reason": why}
        return registry.move_production(target, event)


def diff(registry: Registry, first: str | int, second: str | int) -> pd.DataFrame:
    """What the cards of two versions (aliases or numbers) differ in: entry, first, second, difference of numbers.

    Raises:
        RegistryError: when one of them does not exist.
        PackageError: when a card is of another format.
    """
    cards = [_entries(registry, which) for which in (first, second)]
    rows = [(entry, cards[0].get(entry), cards[1].get(entry)) for entry in sorted(cards[0].keys() | cards[1].keys())]
    changed = [(*row, _difference(row[1], row[2])) for row in rows if row[1] != row[2]]
    return pd.DataFrame(changed, columns=["entry", str(first), str(second), "difference"], dtype=object)


def _difference(first: Any, second: Any) -> float | None:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (first, second))
    return round(second - first, 10) if numbers else None


def _check_target(registry: Registry, target: int, current: int) -> None:
    if target == current:
        raise UsageError(f"version {target} is in production already. See: supcam history")
    moves = [event for event in registry.events() if event["action"] in _MOVES]
    served = {event[end] for event in moves for end in ("version", "from")}
    if target not in served:
        was = ", ".join(str(number) for number in sorted(served - {None, current})) or "none"
        raise UsageError(
            f"version {target} never was in production; those that were: {was}. To bring a new one: supcam promote"
        )


def _entries(registry: Registry, which: str | int) -> dict[str, Any]:
    """The card of a version, entries by name as ``section.key``."""
    version = registry.resolve(which)
    try:
        return _flat(load_card(registry.package(version)).model_dump(mode="json"))
    except PackageError as error:
        raise PackageError(f"version {version.number}: {error}") from None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
