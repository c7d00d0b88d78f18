"""The page of a promotion decision: one HTML file that needs no network."""

from html import escape
from typing import Any

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.35rem .6rem;text-align:left}
.passed{color:#17692b}.failed{color:#a31616;font-weight:600}.not-applied{color:#777}"""


def decision_page(event: dict[str, Any]) -> str:
    """HTML of an event of the record: who decided what, and every rule with its value and verdict."""
    decision = event.get("decision") or {}
    rows = "".join(_row(rule) for rule in decision.get("rules", []))
    came_from = f" in place of version {event['from']}" if event.get("from") is not None else ""
    table = (
        f"<table><tr><th>Rule</th><th>Verdict</th><th>Value</th><th>Allowed</th><th>Note</th></tr>{rows}</table>"
        if rows
        else ""
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Version {event['version']}: {escape(event['action'])}</title><style>{_STYLE}</style>"
        f"<h1>Version {event['version']}: {escape(event['action'])}{came_from}</h1>"
        f"<p>{escape(event['when'])}, by {escape(event['who'])}.</p><p>{escape(event['reason'])}</p>{table}</html>\n"
    )


def _row(rule: dict[str, Any]) -> str:
    verdict = {True: "passed", False: "failed", None: "not applied"}[rule["passed"]]
    cells = "".join(f"<td>{escape(_text(rule[key]))}</td>" for key in ("value", "allowed", "note"))
    name = escape(rule["name"])
    return f'<tr><td>{name}</td><td class="{verdict.replace(" ", "-")}">{verdict}</td>{cells}</tr>'


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
