"""What ``supcam watch`` found: a page, JSON for scripts, and metrics for MLflow."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from supcam.files import write_text
from supcam.monitoring.shift import QUANTITIES, Shift
from supcam.pages import render
from supcam.settings import WatchSettings

PAGE, VALUES = "watch.html", "watch.json"


def write_report(shifts: Sequence[Shift], settings: WatchSettings, reference: int, origin: str, into: Path) -> None:
    """Write ``watch.html`` and ``watch.json`` into a folder; the first of ``shifts`` is about all answers."""
    alarms = sum(len(shift.alarms) for shift in shifts)
    content = {"model": origin, "reference": reference, "alarms": alarms, "groups": [asdict(shift) for shift in shifts]}
    values = {
        "shifts": shifts,
        "answers": shifts[0].crops,
        "reference": reference,
        "origin": origin,
        "alarms": alarms,
        "date": datetime.now(UTC).date().isoformat(),
        "meanings": QUANTITIES,
        "false_alarms": settings.false_alarms,
    }
    write_text(into / VALUES, json.dumps(content, indent=1) + "\n")
    write_text(into / PAGE, render("watch.html", values))


def metrics(shift: Shift) -> dict[str, float]:
    """Distances, alarms and shares of the answers by name, as MLflow takes them."""
    found = {f"distance_{comparison.name}": comparison.distance for comparison in shift.comparisons}
    shares = {f"share_{name.replace(': ', '_').replace(' ', '_')}": now for name, (_, now) in shift.shares.items()}
    return {**found, **shares, "alarms": float(len(shift.alarms)), "crops": float(shift.crops)}
