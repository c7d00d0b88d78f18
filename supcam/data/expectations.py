"""The gate of the data: suites of rules on raw crops, splits and composed crops.

Pandas measures the crops and compares them with each other (``facts``); what is allowed stands in ``rules``; Great
Expectations decides which values lie outside it (``judge``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from supcam.data.facts import composed_tables, darkest_range, raw_tables, split_tables
from supcam.data.judge import judge
from supcam.data.reports import ValidationReport
from supcam.data.rules import composed_rules, data_rules
from supcam.errors import UsageError
from supcam.progress import Progress
from supcam.settings import ValidateComposedSettings, ValidateSettings


def validate_crops(
    frame: pd.DataFrame, root: Path, settings: ValidateSettings, *, progress: Progress | None = None
) -> ValidationReport:
    """Judge every crop of a manifest whose paths start from ``root``; each image is read once.

    Raises:
        UsageError: for an empty manifest or an unknown rule in the settings.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(frame, "manifest")
    rules = [rule for rule in data_rules(settings)[0] if rule.name != "split_known" or "split" in frame.columns]
    tables, linked = raw_tables(frame, root, settings.near_duplicate, progress)
    return judge("raw", tables, rules, linked)


def validate_splits(
    frame: pd.DataFrame, settings: ValidateSettings, *, by_case: bool, linked: Sequence[Sequence[str]] = ()
) -> ValidationReport:
    """Judge a split manifest: no part is empty, no case, duplicate or near duplicate (``linked``) lies in two.

    Raises:
        UsageError, MissingExtra: as :func:`validate_crops`.
    """
    _refuse_empty(frame, "split manifest")
    rules = [rule for rule in data_rules(settings)[1] if rule.name != "case_crosses" or by_case]
    return judge("splits", split_tables(frame, linked), rules)


def validate_composed(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    root: Path,
    settings: ValidateComposedSettings,
    *,
    requested: Mapping[str, int] | int | None = None,
    sources_root: Path | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Judge composed crops against the real training rows ``sources`` they were made of.

    ``requested`` are the composites asked for, by type or in all. Sides are compared with the shortest and the longest
    among ``sources``; with ``sources_root``, the folder their paths start from, intensities are compared as well.

    Raises:
        UsageError, MissingExtra: as :func:`validate_crops`, and when there are no sources.
    """
    _refuse_empty(sources, "training part")
    sides = sources[["width", "height"]].to_numpy(dtype=float)
    darkest = darkest_range(sources, sources_root) if sources_root else (0, 255)
    rules = composed_rules(settings, darkest, (float(sides.min()), float(sides.max())))
    asked = {"all": requested} if isinstance(requested, int) else requested or {}
    return judge("composed", composed_tables(frame, sources, root, asked, progress), rules)


def _refuse_empty(frame: pd.DataFrame, what: str) -> None:
    if frame.empty:
        raise UsageError(f"the {what} holds no crop. Import some: supcam import SOURCE")
