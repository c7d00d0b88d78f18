"""The end of every validation: write what was found, and refuse when a rule that stops failed."""

from pathlib import Path

from supcam.data.reports import ValidationReport
from supcam.errors import GateRefused

_BACK = """
Correct the crops and run again, or go back to the version of the last commit:
git checkout -- data.dvc && dvc checkout --force data.dvc"""


def require_passed(report: ValidationReport, path: Path, page: Path | None = None) -> str:
    """Write the report to ``path`` and return its summary line; ``page`` is the folder of the page with pictures.

    Raises:
        GateRefused: when a rule of severity stop failed; the message lists the failing crops and the way back.
    """
    report.to_json(path)
    shown = f"\nPictures of the failing crops: {page / 'index.html'}" if page is not None else ""
    if not report.passed:
        raise GateRefused(report.refusal() + shown + (_BACK if report.suite == "raw" else ""))
    warned = ", ".join(f"{rule.name} {rule.count}" for rule in report.rules if rule.count)
    return f"{report.suite}: {report.crops} crops passed" + (f"; warnings: {warned}{shown}" if warned else "")
