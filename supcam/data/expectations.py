"""The gate of the data: suites of rules on raw crops, splits and composed crops.

Pandas measures the crops and compares them with each other (``facts``); what is allowed stands in ``rules``; Great
Expectations decides which values lie outside it (``judge``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from supcam.data.facts import composed_tables, darkest_range, raw_tables, split_tables
from supcam.data.judge import judge
from supcam.data.manifest import manifest_hash
from supcam.data.reports import ValidationReport, write_page
from supcam.data.rules import composed_rules, raw_rules, split_rules
from supcam.errors import UsageError
from supcam.progress import Progress
from supcam.settings import ValidateComposedSettings, ValidateSettings


def validate_crops(
    frame: pd.DataFrame,
    root: Path,
    settings: ValidateSettings,
    *,
    docs: Path | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Judge every crop of a manifest whose paths start from ``root``; each image is read once.

    ``docs`` is the folder that gets the page ``index.html`` with the failing crops.

    Raises:
        UsageError: for an empty manifest or an unknown rule in the settings.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(frame, "manifest")
    rules = raw_rules(settings, "split" in frame.columns)
    tables, linked = raw_tables(frame, root, settings.near_duplicate, progress=progress)
    return _with_page(judge("raw", tables, rules, manifest_hash(frame), linked), root, docs)


def validate_splits(
    frame: pd.DataFrame,
    settings: ValidateSettings,
    *,
    by_case: bool,
    linked: Sequence[Sequence[str]] = (),
    root: Path | None = None,
    docs: Path | None = None,
) -> ValidationReport:
    """Judge a split manifest: no part is empty, no case, duplicate or near duplicate (``linked``) lies in two.

    Raises:
        UsageError: for an empty manifest or an unknown rule in the settings.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(frame, "split manifest")
    rules = split_rules(settings, by_case)
    return _with_page(judge("splits", split_tables(frame, linked), rules, manifest_hash(frame)), root, docs)


def validate_composed(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    root: Path,
    settings: ValidateComposedSettings,
    *,
    requested: Mapping[str, int] | int | None = None,
    sources_root: Path | None = None,
    docs: Path | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Judge composed crops against the real training rows ``sources`` they were made of.

    ``requested`` are the composites asked for, by type or in all. Sides are compared with the shortest and the longest
    among ``sources``; with ``sources_root``, the folder their paths start from, intensities are compared as well.

    Raises:
        UsageError: when there are no sources or a rule in the settings is unknown.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(sources, "training part")
    sides = sources[["width", "height"]].to_numpy(dtype=float)
    darkest = darkest_range(sources, sources_root) if sources_root else (0, 255)
    rules = composed_rules(settings, darkest, (float(sides.min()), float(sides.max())))
    asked = {"all": requested} if isinstance(requested, int) else requested or {}
    tables = composed_tables(frame, sources, root, asked, progress=progress)
    return _with_page(judge("composed", tables, rules, manifest_hash(frame)), root, docs)


def _refuse_empty(frame: pd.DataFrame, what: str) -> None:
    if frame.empty:
        raise UsageError(f"the {what} holds no crop. Import some: supcam import SOURCE")


def _with_page(report: ValidationReport, root: Path | None, docs: Path | None) -> ValidationReport:
    if docs is not None and root is not None:
        write_page(report, root, docs)
    return report
