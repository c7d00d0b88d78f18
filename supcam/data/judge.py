"""Rules run by Great Expectations on tables in memory; every failing row is listed."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from supcam.data.reports import RuleResult, ValidationReport, failing_frame
from supcam.data.rules import REQUIRED, Rule
from supcam.errors import MissingExtra, SupcamError

_VERDICTS = {"stop": "failed", "warn": "warning"}


def judge(
    suite: str,
    facts: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    rules: list[Rule],
    digest: str,
    linked: list[list[str]],
) -> ValidationReport:
    """Run the rules on the crops and on the smaller ``tables``, whose column ``type`` names rows.

    Raises:
        MissingExtra: when Great Expectations is not installed.
    """
    facts = facts.assign(line=range(2, len(facts) + 2))
    for name in set(REQUIRED) & set(facts.columns):
        facts[name] = facts[name].replace("", None)
    rows = _run(f"{suite}_crop", facts, [rule for rule in rules if rule.per == "crop"])
    for kind, table in tables.items():
        chosen = [rule for rule in rules if rule.per == kind]
        rows += _run(f"{suite}_{kind}", table.assign(line=0, crop_id=table["type"]), chosen) if len(table) else []
    order = {rule.name: index for index, rule in enumerate(rules)}
    rows.sort(key=lambda row: (order[str(row["rule"])], row["line"]))
    paths = dict(zip(facts["line"], facts["path"].fillna(""), strict=True))
    for row in rows:
        row["path"] = paths.get(row["line"], row["crop_id"] if row["rule"] == "accounted_for" else "")
    failing = failing_frame(rows)
    counts = failing["rule"].value_counts()
    severities = {rule.name: rule.severity for rule in rules}
    results = [
        RuleResult(name, severity, _VERDICTS[severity] if counts.get(name, 0) else "passed", int(counts.get(name, 0)))
        for name, severity in severities.items()
    ]
    return ValidationReport(suite, len(facts), digest, results, failing, linked)


def _run(name: str, facts: pd.DataFrame, rules: list[Rule]) -> list[dict[str, object]]:
    """Let Great Expectations judge a table in memory and list every row it finds failing."""
    gx, context = _great_expectations()
    asset = context.data_sources.add_pandas("supcam").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": facts})
    suite = gx.ExpectationSuite(
        name=name, expectations=[_expectation(gx, rule, index) for index, rule in enumerate(rules)]
    )
    keys = ["line", "crop_id"]
    found = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": keys})
    rows: list[dict[str, object]] = []
    for result in found.results:
        rule = rules[result.expectation_config.meta["rule"]]
        if result.exception_info.get("raised_exception"):
            raise SupcamError(f"rule {rule.name} cannot be judged: {result.exception_info['exception_message']}")
        for entry in result.result.get("unexpected_index_list") or []:
            rows.append(_failing_row(rule, entry))
    return rows


def _failing_row(rule: Rule, entry: Mapping[str, Any]) -> dict[str, object]:
    value = entry.get(rule.column)
    if isinstance(value, float | np.floating):
        value = "nothing" if np.isnan(value) else f"{value:.4g}"
    crop_id = entry["crop_id"] if isinstance(entry["crop_id"], str) else ""
    return {
        "line": int(entry["line"]),
        "crop_id": crop_id,
        "rule": rule.name,
        "severity": rule.severity,
        "value": f"{rule.column} = {value if value is not None else 'nothing'}",
        "allowed": rule.allowed,
        "remedy": rule.remedy,
    }


def _expectation(gx: Any, rule: Rule, index: int) -> Any:
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
