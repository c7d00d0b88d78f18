"""Rules run by Great Expectations on tables in memory; every failing row is listed."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from supcam.data.manifest import manifest_hash
from supcam.data.reports import FAILING_COLUMNS, RuleResult, ValidationReport
from supcam.data.rules import REQUIRED, DataRule
from supcam.errors import MissingExtra, SupcamError

_VERDICTS = {"stop": "failed", "warn": "warning"}


def judge(
    suite: str, tables: Mapping[str, pd.DataFrame], rules: Sequence[DataRule], linked: Sequence[list[str]] = ()
) -> ValidationReport:
    """Run every rule of a suite on the table that it is about.

    ``tables["crop"]`` has a row for each crop, in the order of the manifest; the others name their rows by ``type``.
    ``linked`` are ids of crops that show one picture.

    Raises:
        MissingExtra: when Great Expectations is not installed.
        SupcamError: when a rule cannot be judged.
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
    counts = failing["rule"].value_counts()
    results = [
        RuleResult(name, severity, _VERDICTS[severity] if counts.get(name, 0) else "passed", int(counts.get(name, 0)))
        for name, severity in {rule.name: rule.severity for rule in rules}.items()
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
    kinds = gx.expectations
    meta = {"rule": index}
    if rule.unique:
        return kinds.ExpectColumnValuesToBeUnique(column=rule.column, meta=meta)
    if rule.among is not None:
        return kinds.ExpectColumnValuesToBeInSet(column=rule.column, value_set=list(rule.among), meta=meta)
    if rule.low is None and rule.high is None:
        return kinds.ExpectColumnValuesToNotBeNull(column=rule.column, meta=meta)
    return kinds.ExpectColumnValuesToBeBetween(column=rule.column, min_value=rule.low, max_value=rule.high, meta=meta)


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
