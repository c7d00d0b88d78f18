"""The append-only record of promotions, refusals and rollbacks, and the move that an interruption may leave.

An event is a tag of the registered model in brief, a tag of its version with every rule, and two files of its run.
"""

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from supcam.pages import render
from supcam.tracking import user

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

PENDING_TAG = "supcam.pending"
DECISION_TAG = "supcam.decision"
REASON_TAG = "supcam.decision.reason"

ROLLED_BACK = "rolled back"
MOVED, REMOVED = "moved by hand", "removed by hand"
BY_HAND = (MOVED, REMOVED)
MOVES = ("promoted", "forced", ROLLED_BACK, *BY_HAND)
DAMAGED = "damaged"

_EVENT = "supcam.event."
_WHOLE = "supcam.decision."  # and the number of the event, on its version
_REASON_LENGTH = 2000


def events_of(found: "RegisteredModel | None", production: int | None) -> list[dict[str, Any]]:
    """Events of a registered model, oldest first; an interrupted move that took effect counts.

    A tag that somebody damaged is an event with the action ``damaged``.
    """
    if found is None:
        return []
    events: dict[int, dict[str, Any]] = {}
    for key, value in found.tags.items():
        number = key.removeprefix(_EVENT)
        if key.startswith(_EVENT) and number.isdecimal():
            events[int(number)] = _checked(parsed(value), int(number))
    pending = pending_move(found)
    if pending and production == pending["to"]:
        events.setdefault(pending["event"]["number"], pending["event"])
    return [event for _, event in sorted(events.items())]


def by_hand(events: list[dict[str, Any]], production: int | None) -> list[dict[str, Any]]:
    """Where ``production`` is not what the last event made it: one more, which no tag holds yet."""
    moves = [event for event in events if event["action"] in MOVES]
    last = moves[-1] if moves else None
    recorded = None if last is None or last["action"] == REMOVED else last["version"]
    if production == recorded or (production is None and not moves):
        return []
    event = {
        "number": _next_number(events),
        "when": "",
        "who": "",
        "action": MOVED if production is not None else REMOVED,
        "version": production if production is not None else recorded,
        "from": recorded,
        "reason": "the alias production was changed without supcam, by whom and when is not recorded",
    }
    return [event]


def served(events: list[dict[str, Any]]) -> list[int]:
    """Versions that were in production, each once, the last one first."""
    ends = [event[end] for event in reversed(events) if event["action"] in MOVES for end in ("version", "from")]
    return list(dict.fromkeys(number for number in ends if number is not None))


def withdrawn(events: list[dict[str, Any]]) -> set[int]:
    """Versions that a rollback took out of production and nothing brought back.

    A rollback to a version that was withdrawn takes that back, and says nothing about the version it came from.
    """
    out: set[int] = set()
    for event in events:
        took_back = event["version"] in out
        if event["action"] in MOVES:
            out.discard(event["version"])
        if event["action"] == ROLLED_BACK and event["from"] is not None and not took_back:
            out.add(event["from"])
    return out


def pending_move(found: "RegisteredModel | None") -> dict[str, Any] | None:
    """The move of production that was announced and not completed: ``to``, ``from`` and ``event``."""
    pending = parsed(found.tags.get(PENDING_TAG, "")) if found is not None else None
    if pending is None or not _is_number(pending.get("to")) or not _is_number(pending.get("from"), or_none=True):
        return None
    event = pending.get("event")
    if not isinstance(event, dict) or not _is_number(event.get("number")):
        return None
    return None if _checked(event, event["number"])["action"] == DAMAGED else pending


def _next_number(events: list[dict[str, Any]]) -> int:
    return 1 + max((event["number"] for event in events), default=0)


def announce(client: "MlflowClient", model: str, event: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The event with the number after those ``before``, the time (UTC) and who does it.

    It is kept with every rule on its version, whose tags may be long.
    """
    event = {
        "number": _next_number(before),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": who(),
        **event,
    }
    client.set_model_version_tag(model, str(event["version"]), _numbered(_WHOLE, event), as_text(event))
    return event


def whole_event(tags: Mapping[str, str], number: int) -> dict[str, Any] | None:
    """The event of this number with every rule, as the tags of its version keep it; None where they do not."""
    event = parsed(tags.get(f"{_WHOLE}{number:06d}", ""))
    return None if event is None or _checked(event, number)["action"] == DAMAGED else event


def brief(event: dict[str, Any]) -> dict[str, Any]:
    """An event without its rules but for the names of those that failed; databases keep 5,000 characters of a tag."""
    rules = event.get("decision", {}).get("rules", [])
    kept = {key: value for key, value in event.items() if key != "decision"}
    failed = [rule["name"] for rule in rules if rule["passed"] is False]
    return kept | {"reason": event["reason"][:_REASON_LENGTH], "failed": failed}


def write_event(client: "MlflowClient", model: str, event: dict[str, Any]) -> None:
    """Record a brief event: on the registered model, on the version, and whole as artifacts of its run."""
    from mlflow.exceptions import MlflowException

    number = str(event["version"])
    version = client.get_model_version(model, number)
    whole = parsed(version.tags.get(_numbered(_WHOLE, event), "")) or event
    client.set_registered_model_tag(model, _numbered(_EVENT, event), as_text(event))
    client.set_model_version_tag(model, number, DECISION_TAG, event["action"])
    client.set_model_version_tag(model, number, REASON_TAG, whole["reason"])
    folder, run_id = _numbered("promotion/", event), version.run_id or ""
    try:
        client.log_dict(run_id, whole, f"{folder}/decision.json")
        client.log_text(run_id, render("decision.html", {"event": whole}), f"{folder}/decision.html")
    except MlflowException as error:
        # A deleted run must not keep the registry from moving on: the tags above hold the whole record.
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            raise


def write_by_hand(client: "MlflowClient", model: str, event: dict[str, Any]) -> None:
    """Record what :func:`by_hand` found, with the time at which it was noticed; its version may be gone."""
    noticed = {**event, "when": datetime.now(UTC).isoformat(timespec="seconds")}
    client.set_registered_model_tag(model, _numbered(_EVENT, event), as_text(noticed))


def who() -> str:
    """Who acts, for the record: the MLflow user when one is set, else user and host."""
    named = user()
    return named if "MLFLOW_TRACKING_USERNAME" in os.environ else f"{named}@{socket.gethostname()}"


def as_text(values: dict[str, Any]) -> str:
    """Values as the text of a tag."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def parsed(text: str) -> dict[str, Any] | None:
    """The values of a tag; None for a text that holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _checked(event: dict[str, Any] | None, number: int) -> dict[str, Any]:
    """The event that the tag of this number holds, or one that says that the tag is damaged."""
    if (
        event is not None
        and isinstance(event.get("action"), str)
        and _is_number(event.get("version"))
        and _is_number(event.get("from"), or_none=True)
    ):
        return {"when": "", "who": "", "reason": "", **event, "number": number}
    reason = f"the tag {_EVENT}{number:06d} was changed by hand and cannot be read"
    return {
        "number": number, "when": "", "who": "", "action": DAMAGED, "version": None, "from": None, "reason": reason,
    }  # fmt: skip


def _is_number(value: Any, *, or_none: bool = False) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (or_none and value is None)


def _numbered(prefix: str, event: dict[str, Any]) -> str:
    return f"{prefix}{event['number']:06d}"
