"""Out-of-fold results count only where they are of the same data and recipe."""

import json
from pathlib import Path
from typing import Any

import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.folds import out_of_fold
from supcam.registry.store import Registry
from tests.registry.conftest import make_card
from tests.registry.crops import DATA, SETTINGS, go, project_crops

CARD = make_card().model_copy(update={"settings": {"input": {"size": 64}, "finetune": {"epochs": 5}, "seed": 42}})


def result(**changes: Any) -> dict[str, Any]:
    rows = {label: {"crops": 20, "value": 0.7} for label in TYPE_LABELS} | {"touching": {"crops": 0, "value": None}}
    settings = {"input": {"size": 64}, "model": {}, "compose": {}, "finetune": {"epochs": 5, "test_views": 8}}
    return {"manifest_hash": DATA, "settings": settings, "subsets": {"all crops": {"per_type": rows}}, **changes}


def test_sensitivities_are_read(tmp_path: Path) -> None:
    (tmp_path / "folds.json").write_text(json.dumps(result()))
    found, why = out_of_fold(tmp_path / "folds.json", CARD)
    assert why == ""
    assert {label: (metric.value, metric.crops) for label, metric in found.items()} == {
        "instance": (0.7, 20), "touching": (0.0, 0), "overlapping": (0.7, 20), "touching-overlapping": (0.7, 20),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(result(manifest_hash="other")), "folds.json is of other data"),
        (json.dumps(result(settings=result()["settings"] | {"input": {"size": 96}})), r"other settings \(input.size\)"),
        ("{", "is not a result"),
        ("[]", "is not a result"),
        (json.dumps(result(subsets={})), r"is not a result of supcam.experiments.folds \(KeyError\)"),
    ],
)
def test_a_result_of_other_data_or_settings_judges_nothing(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "folds.json").write_text(content)
    found, why = out_of_fold(tmp_path / "folds.json", CARD)
    assert found == {}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(why)


def test_a_missing_result_is_named_in_the_decision(two_versions: Registry) -> None:
    settings = SETTINGS.model_copy(update={"min_test_crops_per_type": 11, "folds": "no/folds.json"})
    decision = go(two_versions.uri, candidate=1, settings=settings)
    rule = next(rule for rule in decision.rules if rule.name == "floor touching")
    assert rule.passed is None and "folds.json cannot be read" in rule.note


def test_the_gate_reads_the_result_of_its_project(two_versions: Registry) -> None:
    file = project_crops().root.parent / f"{project_crops().root.name}-folds.json"
    rows = {label: {"crops": 20, "value": 0.3} for label in TYPE_LABELS}
    content = result(subsets={"all crops": {"per_type": rows}}, settings={})
    file.write_text(json.dumps(content))
    settings = SETTINGS.model_copy(update={"min_test_crops_per_type": 11, "folds": file.name, "min_sensitivity": 0.4})
    try:
        decision = go(two_versions.uri, candidate=1, settings=settings)
    finally:
        file.unlink()
    rule = next(rule for rule in decision.rules if rule.name == "floor touching")
    assert (decision.outcome, rule.passed, rule.value) == ("refused", False, 0.3)
