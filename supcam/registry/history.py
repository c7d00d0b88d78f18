"""What is registered, what happened to it, the way back, and what two versions differ in."""

from typing import Any

import pandas as pd

from supcam.errors import UsageError
from supcam.registry.card import ModelCard, load_card
from supcam.registry.reach import RegistryError
from supcam.registry.record import DECISION_TAG
from supcam.registry.store import CODE_TAG, DATA_TAG, PREVIOUS, PRODUCTION, Registry
from supcam.serving.engine import PackageError

_MOVES = ("promoted", "forced", "rolled back")


def models(registry: Registry) -> pd.DataFrame:
    """One row a version, newest first: version, aliases, when, decision, run, data, code."""
    names: dict[int, list[str]] = {}
    for alias, number in sorted(registry.aliases().items()):
        names.setdefault(number, []).append(alias)
    rows = [
        {
            "version": version.number,
            "aliases": ", ".join(names.get(version.number, [])),
            "registered": version.created.strftime("%Y-%m-%d %H:%M"),
            "decision": version.tags.get(DECISION_TAG, ""),
            "data": version.tags.get(DATA_TAG, "")[:12],
            "code": version.tags.get(CODE_TAG, "")[:12],
            "run": version.run_id,
        }
        for version in registry.versions()
    ]
    return pd.DataFrame(rows, columns=["version", "aliases", "registered", "decision", "data", "code", "run"])


def history(registry: Registry) -> pd.DataFrame:
    """The record, newest first: number, when (UTC), who, action, version, from (the version before), why."""
    rows = [
        {
            "number": event["number"],
            "when": event["when"],
            "who": event["who"],
            "action": event["action"],
            "version": event["version"],
            "from": event["from"],
            "why": event["reason"],
        }
        for event in reversed(registry.events())
    ]
    frame = pd.DataFrame(rows, columns=["number", "when", "who", "action", "version", "from", "why"])
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
            raise RegistryError(
                f"model {registry.name} has no alias {PREVIOUS!r}: version {current} is the first in production. "
                "There is nothing to go back to."
            )
        target = aliases[PREVIOUS] if to is None else registry.version(to).number
        _check_target(registry, target, current)
        event = {
            "action": "rolled back",
            "version": target,
            "from": current,
            "reason": reason.strip() or "no reason given",
        }
        return registry.move_production(target, event)


def diff(registry: Registry, first: str | int, second: str | int) -> pd.DataFrame:
    """What the cards of two versions (aliases or numbers) differ in: entry, first, second.

    Raises:
        RegistryError: when one of them does not exist.
        PackageError: when a card is of another format.
    """
    cards = [_flat(_card(registry, which)) for which in (first, second)]
    entries = sorted(cards[0].keys() | cards[1].keys())
    rows = [(entry, cards[0].get(entry), cards[1].get(entry)) for entry in entries]
    return pd.DataFrame(
        [row for row in rows if row[1] != row[2]], columns=["entry", str(first), str(second)], dtype=object
    )


def _check_target(registry: Registry, target: int, current: int) -> None:
    if target == current:
        raise UsageError(f"version {target} is in production already. See: supcam history")
    served = {event["version"] for event in registry.events() if event["action"] in _MOVES}
    served |= {event["from"] for event in registry.events() if event["action"] in _MOVES}
    if target not in served:
        was = ", ".join(str(number) for number in sorted(served - {None, current})) or "none"
        raise UsageError(
            f"version {target} never was in production; those that were: {was}. To bring a new one: supcam promote"
        )


def _card(registry: Registry, which: str | int) -> ModelCard:
    version = registry.resolve(which)
    try:
        return load_card(registry.package(version))
    except PackageError as error:
        raise PackageError(f"version {version.number}: {error}") from None


def _flat(card: ModelCard) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", card.model_dump(mode="json"))
    return flat
