"""What a validation found: verdict by rule, failing crops, and the files and pages that show them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from supcam.cluster_type import TYPE_LABELS
from supcam.data.manifest import MANIFEST, read_manifest
from supcam.data.rules import DEMANDS, Severity
from supcam.errors import GateRefused
from supcam.files import write_text
from supcam.pages import render, thumbnail
from supcam.serving.images import ImageError, decode_crop

FAILING_COLUMNS = ("line", "crop_id", "path", "rule", "severity", "value", "allowed", "remedy")
_THUMBNAIL = 96
_SHOWN_PER_RULE = 60
_SUBJECTS = {"raw": "Imported crops", "splits": "The split", "composed": "Composed crops"}  # of the suites
_BACK = """
Correct the crops and run again, or go back to the version of the last commit:
git checkout -- data.dvc && dvc checkout --force data.dvc (dvc pull data.dvc where the cache does not hold it)"""


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
                line = f"line {row['line']} " if row["line"] else ""
                lines.append(
                    f"  {severity} {line}{row['crop_id']}: {row['rule']} {row['value']}; "
                    f"allowed: {row['allowed']}. {row['remedy']}"
                )
            if len(rows) > limit:
                lines.append(f"  ... and {len(rows) - limit} more ({severity})")
        return lines


def read_links(path: Path) -> list[list[str]]:
    """Linked crop ids of a ``validation.json``, for the split; none when there is no such file."""
    if not path.is_file():
        return []
    return [list(ids) for ids in json.loads(path.read_text(encoding="utf-8"))["linked"]]


def require_passed(report: ValidationReport, path: Path, root: Path | None = None, docs: Path | None = None) -> str:
    """Write what a validation found to ``path``, and return it in one line unless a rule that stops failed.

    With ``root``, the folder that the paths of the crops start from, and ``docs``, the page ``index.html`` is written
    below ``docs``: one file that needs no network, with pictures of the failing crops.

    Raises:
        GateRefused: when a rule of severity stop failed; the message lists the failing crops and the way back.
    """
    shown = ""
    if root is not None and docs is not None:
        _write_page(report, root, docs / "index.html")
        shown = f"\nPictures of the failing crops: {docs / 'index.html'}"
    report.to_json(path)
    if not report.passed:
        found = "\n".join([f"validation refused the data ({report.suite}).", *report.lines()])
        raise GateRefused(found + shown + (_BACK if report.suite == "raw" else ""))
    warned = ", ".join(f"{rule.name} {rule.count}" for rule in report.rules if rule.count)
    return f"{report.suite}: {report.crops} crops passed" + (f"; warnings: {warned}{shown}" if warned else "")


def picture(root: Path, path: str, side: int) -> str:
    """A crop, at most ``side`` pixels wide and high, as the source of an ``img`` element; empty if unreadable."""
    if not path or ".." in Path(path).parts or Path(path).is_absolute():  # a manifest edited by hand may say anything
        return ""
    try:
        return thumbnail(decode_crop(root / path), side)
    except ImageError:
        return ""


def _write_page(report: ValidationReport, root: Path, page: Path) -> None:
    sections = []
    for rule in report.rules:
        rows = report.failing[report.failing["rule"] == rule.name].head(_SHOWN_PER_RULE).to_dict("records")
        shown = [{**row, "picture": picture(root, row["path"], _THUMBNAIL)} for row in rows]
        sections += [{"rule": rule, "rows": shown}] if shown else []
    values = {
        "report": report, "sections": sections, "types": TYPE_LABELS, "demands": DEMANDS, "subjects": _SUBJECTS,
        "sources": _counts(root, ["source"]), "cases": _counts(root, ["source", "case_id"]),
    }  # fmt: skip
    write_text(page, render("validation.html", values))


def _counts(root: Path, by: list[str]) -> list[dict[str, object]]:
    """Crops of each type, and named cases, by columns of the manifest; none where there is no manifest."""
    if not (root / MANIFEST).is_file():
        return []
    frame = read_manifest(root / MANIFEST)
    frame["case_id"] = frame["case_id"].fillna("")
    keys = [frame[name] for name in by]
    table = pd.crosstab(keys, frame["type"]).reindex(columns=list(TYPE_LABELS), fill_value=0)
    table["cases"] = frame["case_id"].where(frame["case_id"] != "").groupby(keys).nunique()
    table["crops"] = frame.groupby(keys).size()
    return [{str(name): value for name, value in row.items()} for row in table.reset_index().to_dict("records")]
