"""The append-only record of promotions, refusals and rollbacks, and the move that an interruption may leave.

An event is a tag of the registered model in brief, a tag of its version with every rule, and two files of its run.
"""

import json
import os
import socket
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

_EVENT = "supcam.event."
_WHOLE = "supcam.decision."  # and the number of the event, on its version
_REASON_LENGTH = 2000


def events_of(found: "RegisteredModel | None", production: int | None) -> list[dict[str, Any]]:
    """Events of a registered model, oldest first; an interrupted move that took effect counts."""
    if found is None:
        return []
    events = {key: parsed(value) for key, value in found.tags.items() if key.startswith(_EVENT)}
    pending = pending_move(found)
    if pending and production == pending["to"]:
        events.setdefault(_numbered(_EVENT, pending["event"]), pending["event"])
    return [event for _, event in sorted(events.items()) if event]


def pending_move(found: "RegisteredModel | None") -> dict[str, Any] | None:
    """The move of production that was announced and not completed: ``to``, ``from`` and ``event``."""
    return parsed(found.tags.get(PENDING_TAG, "")) if found is not None else None


def announce(client: "MlflowClient", model: str, event: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The event with the number after those ``before``, the time (UTC) and who does it.

    It is kept with every rule on its version, whose tags may be long.
    """
    number = 1 + max((item["number"] for item in before), default=0)
    event = {"number": number, "when": datetime.now(UTC).isoformat(timespec="seconds"), "who": who(), **event}
    client.set_model_version_tag(model, str(event["version"]), _numbered(_WHOLE, event), as_text(event))
    return event


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
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _numbered(prefix: str, event: dict[str, Any]) -> str:
    return f"{prefix}{event['number']:06d}"
