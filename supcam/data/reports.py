"""What a validation found: verdict by rule, failing crops, and the files and pages that show them."""

import html
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from supcam.data.pictures import picture
from supcam.data.rules import Severity
from supcam.files import write_text

FAILING_COLUMNS = ("line", "crop_id", "path", "rule", "severity", "value", "allowed", "remedy")
_THUMBNAIL = 96
_SHOWN_PER_RULE = 60


@dataclass(frozen=True)
class RuleResult:
    """Verdict of one rule and the number of crops (or types) that fail it."""

    name: str
    severity: Severity
    verdict: str
    count: int


@dataclass(frozen=True)
class ValidationReport:
    """Result of one suite. ``linked`` are the ids of crops that show one picture and must share a part."""

    suite: str
    crops: int
    manifest_hash: str
    rules: list[RuleResult]
    failing: pd.DataFrame
    linked: list[list[str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no rule that stops the pipeline failed."""
        return not any(rule.severity == "stop" and rule.count for rule in self.rules)

    def to_json(self, path: Path) -> None:
        """Write the report; equal data give equal bytes."""
        content = {
            "suite": self.suite,
            "passed": self.passed,
            "crops": self.crops,
            "manifest_hash": self.manifest_hash,
            "rules": [asdict(rule) for rule in self.rules],
            "failing": self.failing.to_dict("records"),
            "linked": self.linked,
        }
        write_text(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def lines(self, limit: int = 20) -> list[str]:
        """The report as lines for a terminal, at most ``limit`` failing crops of each severity."""
        bad = [rule for rule in self.rules if rule.count]
        lines = [f"{self.suite}: {'passed' if self.passed else 'FAILED'}, {self.crops} crops, {len(self.rules)} rules"]
        lines += [f"  {rule.verdict}: {rule.name} ({rule.count})" for rule in bad]
        for severity in ("stop", "warn"):
            rows = self.failing[self.failing["severity"] == severity]
            for row in rows.head(limit).to_dict("records"):
                place = f"line {row['line']} " if row["line"] else ""
                lines.append(
                    f"  {severity} {place}{row['crop_id']}: {row['rule']} {row['value']}; "
                    f"allowed: {row['allowed']}. {row['remedy']}"
                )
            if len(rows) > limit:
                lines.append(f"  ... and {len(rows) - limit} more ({severity})")
        return lines

    def refusal(self) -> str:
        """Message of the gate when the suite failed."""
        return "\n".join([f"validation refused the data ({self.suite}).", *self.lines()])


def read_links(path: Path) -> list[list[str]]:
    """Linked crop ids of a ``validation.json``, for the split; none when there is no such file."""
    if not path.is_file():
        return []
    return [list(ids) for ids in json.loads(path.read_text(encoding="utf-8"))["linked"]]


def write_page(report: ValidationReport, root: Path, docs: Path) -> Path:
    """Write ``index.html`` below ``docs``: one file that needs no network, with pictures of the failing crops."""
    rows = "".join(
        f"<tr class={rule.verdict}><td><a href='#{rule.name}'>{rule.name}</a></td><td>{rule.severity}</td>"
        f"<td>{rule.verdict}</td><td>{rule.count}</td></tr>"
        for rule in report.rules
    )
    sections = "".join(_section(rule, report.failing, root) for rule in report.rules if rule.count)
    verdict = "passed" if report.passed else "failed"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{report.suite} data: {verdict}</title>"
        f"<style>{_STYLE}</style><h1>Suite {report.suite}: <span class={verdict}>{verdict}</span></h1>"
        f"<p>{report.crops} crops, manifest {report.manifest_hash[:12]}</p>"
        f"<table><tr><th>rule<th>severity<th>verdict<th>failing</tr>{rows}</table>{sections}</html>\n"
    )
    write_text(docs / "index.html", page)
    return docs / "index.html"


def _section(rule: RuleResult, failing: pd.DataFrame, root: Path) -> str:
    rows = failing[failing["rule"] == rule.name]
    first = rows.iloc[0]
    cards = "".join(_card(row, root) for row in rows.head(_SHOWN_PER_RULE).to_dict("records"))
    more = f"<p>and {len(rows) - _SHOWN_PER_RULE} more</p>" if len(rows) > _SHOWN_PER_RULE else ""
    return (
        f"<h2 id='{rule.name}'>{rule.name} ({rule.count})</h2>"
        f"<p>Allowed: {_text(first['allowed'])}. {_text(first['remedy'])}</p><div class=cards>{cards}</div>{more}"
    )


def _card(row: Mapping[Hashable, object], root: Path) -> str:
    line = f"line {row['line']}<br>" if row["line"] else ""
    caption = f"{line}{_text(row['crop_id'])}<br><b>{_text(row['value'])}</b>"
    return f"<figure>{picture(root, str(row['path']), _THUMBNAIL)}<figcaption>{caption}</figcaption></figure>"


def _text(value: object) -> str:
    return html.escape(str(value))


def failing_frame(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Failing crops as a table with the columns ``FAILING_COLUMNS``."""
    return pd.DataFrame(list(rows), columns=list(FAILING_COLUMNS))


_STYLE = """
body{font:15px system-ui,sans-serif;margin:2rem;color:#222}table{border-collapse:collapse}
td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}
.failed,tr.failed td{color:#b00020}tr.warning td{color:#8a5a00}.passed{color:#1b7a2f}
.cards{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;width:11rem;border:1px solid #ddd;padding:.4rem}
figcaption{font-size:12px;overflow-wrap:anywhere}.none{color:#b00020}
"""
