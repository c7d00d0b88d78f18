"""The gate of the data: suites of rules on raw crops, splits and composed crops.

Pandas measures the crops and compares them with each other (``facts``); what is allowed stands in ``rules``; Great
Expectations decides which values lie outside it, on tables in memory, and every failing row is listed.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supcam.data.facts import composed_tables, darkest_range, raw_tables, split_tables
from supcam.data.manifest import is_drawn, manifest_hash
from supcam.data.reports import FAILING_COLUMNS, RuleResult, ValidationReport
from supcam.data.rules import REQUIRED, DataRule, composed_rules, data_rules
from supcam.errors import MissingExtra, SupcamError, UsageError
from supcam.progress import Progress
from supcam.settings import ValidateComposedSettings, ValidateSettings

_VERDICTS = {"stop": "failed", "warn": "warning"}


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
    return _judge("raw", tables, rules, linked)


def validate_splits(
    frame: pd.DataFrame,
    settings: ValidateSettings,
    *,
    by_case: bool,
    together: bool = True,
    linked: Sequence[Sequence[str]] = (),
) -> ValidationReport:
    """Judge a split manifest: no part is empty, no case, duplicate or near duplicate (``linked``) lies in two.

    With ``together`` neither do cases of one id in several sources or spellings.

    Raises:
        UsageError, MissingExtra: as :func:`validate_crops`.
    """
    _refuse_empty(frame, "split manifest")
    asked = {"case_crosses": by_case, "patient_crosses": by_case and together}
    rules = [rule for rule in data_rules(settings)[1] if asked.get(rule.name, True)]
    return _judge("splits", split_tables(frame, linked), rules)


def validate_composed(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    root: Path,
    settings: ValidateComposedSettings,
    *,
    requested: int | None = None,
    sources_root: Path | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Judge composed crops against the real training rows ``sources`` they were made of.

    ``requested`` is the number of composites asked for. Sides are compared with the shortest and the longest
    among ``sources``; with ``sources_root``, the folder their paths start from, intensities are compared as well.

    Drawn singles in ``frame`` count as sources as well.

    Raises:
        UsageError, MissingExtra: as :func:`validate_crops`, and when there are no sources.
    """
    _refuse_empty(sources, "training part")
    sides = pd.concat([sources, frame[is_drawn(frame)]])[["width", "height"]].to_numpy(dtype=float)
    tables = composed_tables(frame, sources, root, requested, progress)
    darkest = darkest_range(sources, sources_root, tables["crop"]) if sources_root else (0, 255)
    rules = composed_rules(settings, darkest, (float(sides.min()), float(sides.max())))
    return _judge("composed", tables, rules)


def _refuse_empty(frame: pd.DataFrame, what: str) -> None:
    if frame.empty:
        raise UsageError(f"the {what} holds no crop. Import some: supcam import SOURCE")


def _judge(
    suite: str, tables: Mapping[str, pd.DataFrame], rules: Sequence[DataRule], linked: Sequence[list[str]] = ()
) -> ValidationReport:
    """Run every rule of a suite on the table that it is about.

    ``tables["crop"]`` has a row for each crop, in the order of the manifest; the others name their rows by ``type``.
    ``linked`` are ids of crops that show one picture.
    """
    crops = tables["crop"]
    digest = manifest_hash(crops)
    crops = crops.assign(line=range(2, len(crops) + 2))  # of manifest.csv, whose first line is the head
    for name in set(REQUIRED) & set(crops.columns):
        crops[name] = crops[name].replace("", None)  # for Great Expectations an empty text is a value
    rows: list[dict[str, object]] = []
    for per in dict.fromkeys(rule.per for rule in rules):
        table = crops if per == "crop" else tables[per].assign(line=0, crop_id=tables[per]["type"])
        if len(table):
            rows += _run(f"{suite}_{per}", table, [rule for rule in rules if rule.per == per])
    order = {rule.name: index for index, rule in enumerate(rules)}
    rows.sort(key=lambda row: (order[str(row["rule"])], row["line"]))
    failing = pd.DataFrame(rows, columns=list(FAILING_COLUMNS))
    counts = failing["rule"].value_counts().reindex(list(order), fill_value=0)
    severities = {rule.name: rule.severity for rule in rules}
    results = [
        RuleResult(name, severity, _VERDICTS[severity] if counts[name] else "passed", int(counts[name]))
        for name, severity in severities.items()
    ]
    return ValidationReport(suite, len(crops), digest, results, failing, list(linked))


def _run(name: str, table: pd.DataFrame, rules: list[DataRule]) -> list[dict[str, object]]:
    """Let Great Expectations judge a table in memory and list every row it finds failing."""
    gx, context = _great_expectations()
    asset = context.data_sources.add_pandas("supcam").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": table})
    expectations = [_expectation(gx, rule, index) for index, rule in enumerate(rules)]
    suite = gx.ExpectationSuite(name=name, expectations=expectations)
    keys = [key for key in ("line", "crop_id", "path") if key in table.columns]
    found = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": keys})
    rows: list[dict[str, object]] = []
    for result in found.results:
        rule = rules[result.expectation_config.meta["rule"]]
        if result.exception_info.get("raised_exception"):
            raise SupcamError(f"rule {rule.name} cannot be judged: {result.exception_info['exception_message']}")
        rows += [_failing_row(rule, entry) for entry in result.result.get("unexpected_index_list") or []]
    return rows


def _failing_row(rule: DataRule, entry: Mapping[str, Any]) -> dict[str, object]:
    value = entry.get(rule.column)
    if isinstance(value, float | np.floating):
        value = None if np.isnan(value) else f"{value:.4g}"
    # A missing text comes back as None or as not a number.
    names = {key: entry[key] if isinstance(entry.get(key), str) else "" for key in ("crop_id", "path")}
    return {
        "line": int(entry["line"]),
        **names,
        "rule": rule.name,
        "severity": rule.severity,
        "value": f"{rule.column} = {value if value is not None else 'nothing'}",
        "allowed": rule.allowed,
        "remedy": rule.remedy,
    }


def _expectation(gx: Any, rule: DataRule, index: int) -> Any:
    kinds, common = gx.expectations, {"column": rule.column, "meta": {"rule": index}}
    if rule.unique:
        return kinds.ExpectColumnValuesToBeUnique(**common)
    if rule.among is not None:
        return kinds.ExpectColumnValuesToBeInSet(value_set=list(rule.among), **common)
    if rule.low is None and rule.high is None:
        return kinds.ExpectColumnValuesToNotBeNull(**common)
    return kinds.ExpectColumnValuesToBeBetween(min_value=rule.low, max_value=rule.high, **common)


def _great_expectations() -> tuple[Any, Any]:
    """The library and a context in memory that calls nobody and makes no folder, not even a temporary one."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    try:
        import great_expectations as gx
        import great_expectations.expectations
        from great_expectations.data_context.types import base
    except ImportError:
        raise MissingExtra("Validation of data") from None
    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=base.ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx, gx.get_context(mode="ephemeral", project_config=config)
