"""The promotion rule as a pure function: every rule, both ways."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import (
    AchievedRisk,
    CalibrationCard,
    Metric,
    ModelCard,
    ParityCard,
    ReviewCard,
    TypeReviewCard,
)
from supcam.registry.rules import (
    Comparison,
    Decision,
    Evidence,
    GateRule,
    RegisteredModel,
    Validation,
    compare,
    decide,
)
from supcam.settings import PromoteSettings
from tests.registry.conftest import make_card
from tests.registry.crops import DATA

SETTINGS = PromoteSettings()
PARITY = ParityCard(difference=1e-6, crops=40)


def model(version: int, card: ModelCard | None = None, **changes: object) -> RegisteredModel:
    card = (card or make_card(code=f"code-{version}")).model_copy(update={"parity": PARITY, **changes})
    return RegisteredModel(version, f"content-{version}", card)


def verdict(decision: Decision, name: str) -> bool | None:
    return next(rule.passed for rule in decision.rules if rule.name == name)


def answers(types: NDArray[np.int64], wrong: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities that are correct except where ``wrong``."""
    chosen = np.where(wrong, (types + 1) % 4, types)
    return np.eye(4, dtype=np.float32)[chosen]


def pairs_of(
    types: NDArray[np.int64],
    candidate: NDArray[np.float32],
    production: NDArray[np.float32],
    cases: NDArray[np.str_] | None = None,
) -> Comparison:
    """Both models on crops of the given types; without cases each crop is one of its own."""
    return Comparison(types, candidate, production, np.arange(len(types)).astype(str) if cases is None else cases)


def comparison(per_type: int, candidate_wrong: int, production_wrong: int, of_type: int = 0) -> Comparison:
    types = np.repeat(np.arange(4), per_type)
    position = np.tile(np.arange(per_type), 4)
    of = types == of_type
    return pairs_of(
        types,
        answers(types, of & (position < candidate_wrong)),
        answers(types, of & (position < production_wrong)),
    )


def run(
    candidate: RegisteredModel,
    production: RegisteredModel | None = None,
    pairs: Comparison | None = None,
    **changes: object,
) -> Decision:
    settings = changes.pop("settings", SETTINGS)
    measured = {"evidence": evidence_for(candidate), "latency_ms": 1.0, "comparison": pairs}
    arguments = {"validation": Validation(True, DATA), **measured, **changes}
    return decide(candidate, production, settings, **arguments)  # type: ignore[arg-type]


def evidence_for(candidate: RegisteredModel) -> Evidence:
    """Answers that give the sensitivities of the candidate's card, each crop answered now and with certainty."""
    assert candidate.card is not None
    counts = {label: (metric.value, metric.crops or 0) for label, metric in candidate.card.sensitivity.items()}
    types = np.repeat(np.arange(4), [counts.get(label, (0, 10))[1] for label in TYPE_LABELS])
    wrong = [np.arange(crops) >= round(value * crops) for value, crops in counts.values()] or [types == 9]
    return Evidence(types, answers(types, np.concatenate(wrong)), np.ones(len(types), dtype=bool))


def test_first_model_is_promoted() -> None:
    decision = run(model(1))
    assert (decision.outcome, decision.reason) == ("promoted", "first model in production")


def test_the_same_model_needs_no_comparison() -> None:
    """Production whose files were lost comes back as another version of the same content."""
    decision = run(replace(model(2), content="same"), replace(model(1), content="same"), note="version 1 is lost")
    assert (decision.outcome, decision.reason) == ("promoted", "every rule passed; version 1 is lost")


@pytest.mark.parametrize(
    ("validation", "value"),
    [
        (None, "no record"),
        (Validation(False, DATA), "failed"),
        (Validation(True, "other"), "other"),
    ],
)
def test_data_validation_of_the_very_data_is_needed(validation: Validation | None, value: str) -> None:
    decision = run(model(1), validation=validation, force="urgent")
    assert decision.outcome == "refused"
    assert decision.stops_pipeline
    assert decision.rules[0].value == value


def test_floor_of_a_type_refuses_and_force_overrides_it() -> None:
    settings = PromoteSettings(floors={"touching": 0.95})
    metrics = {**make_card().sensitivity, "touching": Metric(value=0.9, crops=10)}
    overall = dict.fromkeys(("accuracy", "macro_sensitivity"), Metric(value=0.975, crops=40))
    candidate = model(1, sensitivity=metrics, metrics=overall)
    decision = run(candidate, settings=settings)
    assert (decision.outcome, verdict(decision, "floor touching")) == ("refused", False)
    assert verdict(decision, "floor overlapping") is True
    forced = run(candidate, settings=settings, force="clinic needs it")
    assert forced.outcome == "promoted"
    assert "clinic needs it" in forced.reason and "floor touching" in forced.reason


@pytest.mark.parametrize(
    ("changes", "rule", "forcible"),
    [
        ({"parity": ParityCard(difference=2e-4, crops=4)}, "ONNX parity", False),
        ({"parity": None}, "ONNX parity", False),
        ({"licence": ""}, "card complete", False),
        ({"sensitivity": {}}, "card complete", False),
        ({"calibration": CalibrationCard()}, "card complete", False),
        ({"review": ReviewCard()}, "card complete", False),
    ],
)
def test_each_rule_of_the_card_refuses(changes: dict[str, object], rule: str, forcible: bool) -> None:
    decision = run(model(1, **changes))
    assert (decision.outcome, verdict(decision, rule)) == ("refused", False)
    assert rule in decision.reason
    assert (run(model(1, **changes), force="reason").outcome == "promoted") is forcible


def test_latency_and_rollback_refuse() -> None:
    assert verdict(run(model(1), latency_ms=501.0), "latency") is False
    assert verdict(run(model(1), withdrawn=True), "not rolled back") is False
    assert run(model(1), withdrawn=True, force="fixed the cause").outcome == "promoted"


def test_a_type_without_test_crops_has_no_floor() -> None:
    """Its sensitivity is written as 0: with a floor above it, no model could ever be promoted."""
    metrics = {**make_card().sensitivity, "overlapping": Metric(value=0.0, crops=0)}
    overall = dict.fromkeys(("accuracy", "macro_sensitivity"), Metric(value=1.0, crops=30))
    candidate = model(1, sensitivity=metrics, metrics=overall)
    decision = run(candidate, settings=PromoteSettings(min_sensitivity=0.5))
    assert (decision.outcome, verdict(decision, "floor overlapping")) == ("promoted", None)
    rule = next(rule for rule in decision.rules if rule.name == "floor overlapping")
    assert rule.value is None


def test_the_last_type_may_have_no_test_crops() -> None:
    metrics = {**make_card().sensitivity, TYPE_LABELS[-1]: Metric(value=0.0, crops=0)}
    overall = dict.fromkeys(("accuracy", "macro_sensitivity"), Metric(value=1.0, crops=30))
    assert run(model(1, sensitivity=metrics, metrics=overall)).outcome == "promoted"


def few_overlapping(crops: int) -> RegisteredModel:
    """A model that types none of its few overlapping test crops correctly."""
    metrics = {**make_card().sensitivity, "overlapping": Metric(value=0.0, crops=crops)}
    total = 30 + crops
    macro = Metric(value=0.75 if crops else 1.0, crops=total)
    return model(
        1, sensitivity=metrics, metrics={"accuracy": Metric(value=30 / total, crops=total), "macro_sensitivity": macro}
    )


@pytest.mark.parametrize(
    ("crops", "verdict_", "outcome"),
    [(0, None, "promoted"), (1, None, "promoted"), (2, None, "promoted"), (3, False, "refused")],
)
def test_a_floor_needs_as_many_crops_as_the_comparison(crops: int, verdict_: bool | None, outcome: str) -> None:
    """464 crops of 12 cases left one touching-overlapping test crop, and the floor of 0.4 refused the model by it."""
    decision = run(few_overlapping(crops), settings=PromoteSettings(min_sensitivity=0.4))
    rule = next(rule for rule in decision.rules if rule.name == "floor overlapping")
    assert (rule.passed, decision.outcome) == (verdict_, outcome)
    if verdict_ is None:
        assert rule.note == f"too few crops to judge ({crops} of at least 3)"
        assert decision.reason == "first model in production; too few test crops to judge: floor overlapping"


def test_a_test_part_with_too_few_crops_of_every_type_judges_nothing_and_refuses() -> None:
    """Two crops of each type would have been a way around every floor."""
    settings = PromoteSettings(min_test_crops_per_type=11)
    decision = run(model(1), settings=settings)
    assert (decision.outcome, verdict(decision, "floors")) == ("refused", False)
    assert run(model(1), settings=settings, force="agreed").outcome == "promoted"


@pytest.mark.parametrize(
    ("value", "crops", "passed"), [(0.4, 9, True), (0.4, 3, True), (0.39, 9, False), (0.9, 2, None)]
)
def test_folds_stand_in_for_a_test_part_that_is_too_small(value: float, crops: int, passed: bool | None) -> None:
    candidate = few_overlapping(1)
    folds = {label: Metric(value=0.0, crops=500) for label in TYPE_LABELS}  # of types with test crops they say nothing
    evidence = replace(evidence_for(candidate), out_of_fold=folds | {"overlapping": Metric(value=value, crops=crops)})
    decision = run(candidate, evidence=evidence, settings=PromoteSettings(min_sensitivity=0.4))
    rule = next(rule for rule in decision.rules if rule.name == "floor overlapping")
    assert rule.passed is passed
    assert decision.outcome == ("refused" if passed is False else "promoted")
    if passed is not None:
        assert rule.value == value and rule.note == f"out of fold, on {crops} crops: of the recipe, not of this model"
    assert verdict(decision, "floor touching") is True


def test_folds_of_unknown_size_judge_nothing() -> None:
    candidate = few_overlapping(0)
    evidence = replace(evidence_for(candidate), out_of_fold={"overlapping": Metric(value=0.0)})
    settings = PromoteSettings(min_sensitivity=0.4, min_test_crops_per_type=1)
    assert verdict(run(candidate, evidence=evidence, settings=settings), "floor overlapping") is None


def test_a_card_that_says_there_are_no_crops_of_a_type_is_not_believed() -> None:
    """Its floor was left out, whatever the model answered."""
    metrics = {**make_card().sensitivity, "overlapping": Metric(value=0.0, crops=0)}
    evidence = evidence_for(model(1))
    wrong = replace(evidence, probabilities=answers(evidence.types, evidence.types == 2))
    decision = run(model(1, sensitivity=metrics), evidence=wrong, settings=PromoteSettings(min_sensitivity=0.5))
    assert (decision.outcome, verdict(decision, "floor overlapping")) == ("refused", False)
    assert verdict(decision, "card as measured") is False


@pytest.mark.parametrize(
    ("change", "rule", "forcible"),
    [
        ({"computed": np.arange(40) > 0}, "answers computed", False),
        ({"difference": math.nextafter(1e-3, 1.0)}, "answers as stored", False),
        ({"difference": np.nan}, "answers as stored", False),
        ({"contradiction": "split.csv has crops in other parts than the split"}, "split", False),
        ({"unknown": "the model is of other data"}, "split known", True),
    ],
)
def test_each_rule_about_the_answers_refuses(change: dict[str, Any], rule: str, forcible: bool) -> None:
    evidence = replace(evidence_for(model(1)), **change)
    decision = run(model(1), evidence=evidence)
    assert (decision.outcome, verdict(decision, rule)) == ("refused", False)
    assert (run(model(1), evidence=evidence, force="reason").outcome == "promoted") is forcible
    assert decision.stops_pipeline is not forcible


def test_stored_answers_promote_only_where_the_settings_say_so() -> None:
    evidence = replace(evidence_for(model(1)), computed=np.zeros(40, dtype=bool))
    decision = run(model(1), evidence=evidence, settings=PromoteSettings(allow_stored_answers=True))
    assert (decision.outcome, verdict(decision, "answers computed")) == ("promoted", True)
    assert decision.reason == "first model in production; 40 of 40 answers are stored ones"
    refused = run(model(1), evidence=evidence)
    assert refused.reason == "answers computed: 0 of 40 (the graph run on every test crop)"


@pytest.mark.parametrize(("claimed", "passed"), [(1.0, True), (0.95, True), (0.9, True), (0.8, False)])
def test_the_card_may_differ_by_a_crop_of_the_type(claimed: float, passed: bool) -> None:
    metrics = {**make_card().sensitivity, "touching": Metric(value=claimed, crops=10)}
    decision = run(model(1, sensitivity=metrics), evidence=evidence_for(model(1)))
    assert verdict(decision, "card as measured") is passed


def test_a_sensitivity_equal_to_its_floor_passes() -> None:
    evidence = evidence_for(model(1))
    low = replace(evidence, probabilities=answers(evidence.types, np.tile(np.arange(10) < 1, 4)))
    card = make_card(sensitivity=0.9)
    for floor, passed in ((0.9, True), (np.nextafter(0.9, 1), False)):
        decision = run(model(1, card), evidence=low, settings=PromoteSettings(min_sensitivity=floor))
        assert all(verdict(decision, f"floor {label}") is passed for label in TYPE_LABELS)


def test_the_calibration_is_that_of_the_answers() -> None:
    """The card says 0.05; these answers are right every second time and sure of it."""
    evidence = evidence_for(model(1))
    low = replace(evidence, probabilities=answers(evidence.types, np.arange(40) % 2 == 1))
    decision = run(model(1), evidence=low)
    rule = next(rule for rule in decision.rules if rule.name == "calibration")
    assert (rule.passed, rule.value) == (False, pytest.approx(0.5))
    within = run(model(1), evidence=low, settings=PromoteSettings(max_calibration_error=float(rule.value)))
    assert verdict(within, "calibration") is True


def test_a_value_equal_to_its_limit_passes() -> None:
    limits = PromoteSettings(max_parity_difference=1e-6, max_latency_ms=7.0)
    decision = run(model(1), settings=limits, latency_ms=7.0)
    assert decision.outcome == "promoted"
    assert [verdict(decision, name) for name in ("ONNX parity", "latency")] == [True] * 2


def test_better_is_promoted_and_worse_is_refused() -> None:
    better = run(model(2), model(1), comparison(20, 1, 3))
    assert better.outcome == "promoted"
    worse = run(model(2), model(1), comparison(20, 3, 1))
    assert (worse.outcome, verdict(worse, "macro_sensitivity against production")) == ("refused", False)
    assert worse.comparison["figure"]["difference"] == pytest.approx(-0.025)


def test_a_type_that_falls_beyond_the_margin_refuses_a_better_metric() -> None:
    types = np.repeat(np.arange(4), 100)
    position = np.tile(np.arange(100), 4)
    candidate = answers(types, (types == 2) & (position < 30))
    production = answers(types, (types != 2) & (position < 20))
    decision = run(model(2), model(1), pairs_of(types, candidate, production))
    assert verdict(decision, "macro_sensitivity against production") is True
    assert (decision.outcome, verdict(decision, "overlapping not worse")) == ("refused", False)


@pytest.mark.parametrize(("lost", "passed"), [(0, True), (2, True), (3, False)])
def test_a_type_may_fall_by_the_margin_and_not_by_a_crop_more(lost: int, passed: bool) -> None:
    """Overlapping loses ``lost`` of 100 crops net, margin 0.02; touching gains, so that the metric rises."""
    types = np.repeat(np.arange(4), 100)
    position = np.tile(np.arange(100), 4)
    production = answers(types, ((types == 1) & (position < 20)) | ((types == 2) & (position < 5)))
    # The errors lie elsewhere than production's: pairs are compared, only their balance counts.
    candidate = answers(types, (types == 2) & (position >= 95 - lost))
    decision = run(model(2), model(1), pairs_of(types, candidate, production))
    rule = next(rule for rule in decision.rules if rule.name == "overlapping not worse")
    assert (rule.passed, rule.value) == (passed, pytest.approx(-lost / 100))
    assert decision.outcome == ("promoted" if passed else "refused")
    assert rule.allowed == "a fall of at most 0.02"
    assert rule.note.startswith("95% interval [") and rule.note.endswith("on 100 crops of 100 cases")


def test_the_interval_is_of_whole_cases_and_decides_nothing() -> None:
    """Ten crops of a case that fall together are one piece of evidence: by crops the fall looked certain."""
    types = np.repeat(np.arange(4), 100)
    cases = np.tile(np.repeat(np.arange(10), 10), 4).astype(str)
    candidate = answers(types, (types == 2) & (cases == "3"))
    production = answers(types, (types == 1) & (np.tile(np.arange(100), 4) < 20))
    by_case = run(model(2), model(1), pairs_of(types, candidate, production, cases))
    by_crop = run(model(2), model(1), pairs_of(types, candidate, production))
    rows = [decision.comparison["sensitivity"]["overlapping"] for decision in (by_case, by_crop)]
    assert rows[0]["high"] == 0 > rows[1]["high"]
    assert rows[0]["low"] < rows[1]["low"]
    assert [row["cases"] for row in rows] == [10, 100]
    assert [row["difference"] for row in rows] == [-0.1, -0.1]
    assert by_case.outcome == by_crop.outcome == "refused"


def test_a_wide_interval_excuses_no_fall() -> None:
    """On 20 crops the interval of a lost one reaches above the margin; the fall of 0.05 still is beyond it."""
    types = np.repeat(np.arange(4), 20)
    position = np.tile(np.arange(20), 4)
    candidate = answers(types, (types == 2) & (position < 1))
    production = answers(types, (types == 1) & (position < 5))
    decision = run(model(2), model(1), pairs_of(types, candidate, production))
    assert decision.comparison["sensitivity"]["overlapping"]["high"] >= 0
    assert (decision.outcome, verdict(decision, "overlapping not worse")) == ("refused", False)


def test_an_equal_metric_is_enough_and_a_lower_one_is_not() -> None:
    """Types may change places within the margin; the metric itself may not fall at all."""
    types = np.repeat(np.arange(4), 100)
    position = np.tile(np.arange(100), 4)
    production = answers(types, (types == 1) & (position < 2))
    for lost, passed in ((2, True), (1, True), (3, False)):
        candidate = answers(types, (types == 2) & (position < lost))
        settings = PromoteSettings(margin=0.05)
        decision = run(model(2), model(1), pairs_of(types, candidate, production), settings=settings)
        assert verdict(decision, "overlapping not worse") is True
        assert verdict(decision, "macro_sensitivity against production") is passed
        assert decision.outcome == ("promoted" if passed else "refused")


def test_a_tie_promotes_only_other_data_or_code() -> None:
    tie = comparison(20, 2, 2)
    same = make_card(code="code")
    assert verdict(run(model(2, same), model(1, same), tie), "tie") is False
    assert run(model(2, make_card(code="new")), model(1, same), tie).outcome == "promoted"
    assert run(model(2, same), model(1, make_card(data="old", code="code")), tie).outcome == "promoted"
    assert run(replace(model(2, same), shipped="corrected"), model(1, same), tie).outcome == "promoted"
    assert run(model(2, same), model(1, same), None).outcome == "refused"


def test_too_few_shared_crops_compare_nothing_and_refuse() -> None:
    """With the floors alone, a split that leaves two crops a type was a way around the comparison."""
    decision = run(model(2), model(1), comparison(2, 2, 0))
    rule = next(rule for rule in decision.rules if "against production" in rule.name)
    assert (decision.outcome, rule.passed) == ("refused", False)
    assert "nothing can be compared" in rule.note
    assert decision.comparison["too_few"] == dict.fromkeys(TYPE_LABELS, 2)
    assert run(model(2), model(1), comparison(2, 2, 0), force="few crops").outcome == "promoted"


def read(decision: Decision) -> dict[str, tuple[object, ...]]:
    """What a person reads of each rule."""
    return {rule.name: (rule.passed, rule.value, rule.allowed, rule.note) for rule in decision.rules}


def test_a_promotion_says_what_was_measured_and_allowed() -> None:
    decision = run(model(2), model(1), comparison(20, 1, 3), note="version 1 was moved by hand")
    metric = {"candidate": 0.9875, "production": 0.9625, "difference": 0.025}
    fall, unchanged = "a fall of at most 0.02", "95% interval [+0.0000, +0.0000] on 20 crops of 20 cases"
    assert read(decision) == {
        "data validation": (True, "passed", "passed, of this very data hash", ""),
        "card complete": (True, "nothing missing", "nothing missing", ""),
        "ONNX parity": (True, 1e-6, "at most 0.0001", "on 40 crops"),
        "answers computed": (True, "40 of 40", "the graph run on every test crop", ""),
        "answers as stored": (True, 0.0, "at most 0.001", ""),
        "card as measured": (True, "as measured", "what the gate measures", ""),
        "split": (True, "as divided", "data and split of the project", ""),
        **{f"floor {label}": (True, 1.0, "at least 0", "on 10 test crops") for label in TYPE_LABELS},
        "calibration": (True, 0.0, "error at most 0.3", ""),
        "latency": (True, 1.0, "at most 500 ms", "one crop, one thread"),
        "not rolled back": (True, "no", "no", ""),
        "macro_sensitivity against production": (
            True,
            metric,
            "at least equal",
            "difference +0.0250 [+0.0000, +0.0625]; version 1 was moved by hand",
        ),
        **{f"{label} not worse": (True, 0.0, fall, unchanged) for label in TYPE_LABELS},
        "instance not worse": (True, 0.1, fall, unchanged.replace("+0.0000]", "+0.2500]")),
        "tie": (True, "no tie", "a tie needs other data or code", ""),
    }
    shares = {"candidate": 0.95, "production": 0.85, "difference": 0.1, "low": 0.0, "high": 0.25}
    same = {"candidate": 1.0, "production": 1.0, "difference": 0.0, "low": 0.0, "high": 0.0}
    assert decision.comparison == {
        "crops": 80,
        "cases": 80,
        "stored_answers": 0,
        "compared": list(TYPE_LABELS),
        "too_few": {},
        "sensitivity": {
            label: {"crops": 20, "cases": 20, **(shares if label == "instance" else same)} for label in TYPE_LABELS
        },
        "figure": {"name": "macro_sensitivity", **metric, "low": 0.0, "high": 0.0625},
        "mcnemar": {"only_first": 2, "only_second": 0, "p_value": 0.5},
    }


def test_a_refusal_says_every_rule_that_failed_and_what_to_do() -> None:
    candidate = few_overlapping(2)
    evidence = replace(evidence_for(candidate), no_folds="no folds of this recipe")
    decision = run(candidate, evidence=evidence, validation=None, withdrawn=True, latency_ms=600.1234)
    found = read(decision)
    assert found["data validation"] == (
        False,
        "no record",
        "passed, of this very data hash",
        "Run: dvc repro validate",
    )
    assert found["floor overlapping"][0] is None
    assert found["floor overlapping"][3] == "too few crops to judge (2 of at least 3); no folds of this recipe"
    assert found["latency"][:2] == (False, 600.123)
    assert found["not rolled back"][1:] == (
        "rolled back",
        "no",
        "a rollback took this version out of production; --force REASON brings it back",
    )
    assert decision.reason == (
        "data validation: no record (passed, of this very data hash); latency: 600.1 (at most 500 ms); "
        "not rolled back: rolled back (no)"
    )
    assert (decision.version, decision.production, decision.refusal) == (
        1,
        None,
        f"version 1 was refused: {decision.reason}. Production stays as it was.",
    )


def test_types_with_too_few_crops_are_left_out_of_the_metric() -> None:
    types = np.array([0] * 10 + [3])
    pairs = pairs_of(types, answers(types, types == 3), answers(types, types == 9))
    summary = compare(pairs, SETTINGS)
    assert summary["compared"] == ["instance"]
    assert summary["figure"]["difference"] == 0.0


def test_an_unreadable_production_compares_nothing_and_refuses() -> None:
    production = RegisteredModel(1, "old", None)
    decision = run(model(2), production)
    rule = next(rule for rule in decision.rules if "against production" in rule.name)
    assert (decision.outcome, rule.passed) == ("refused", False)
    assert "no version that was in production can be read" in rule.note
    assert run(model(2), production, force="its disk is gone").outcome == "promoted"


@hypothesis_settings(max_examples=hypothesis_settings().max_examples // 3, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=80),
    st.sampled_from(["macro_sensitivity", "accuracy"]),
)
def test_never_promotes_a_lower_metric_or_a_type_that_falls(rows: list[tuple[int, bool, bool]], metric: str) -> None:
    types = np.array([row[0] for row in rows])
    pairs = pairs_of(
        types, answers(types, np.array([row[1] for row in rows])), answers(types, np.array([row[2] for row in rows]))
    )
    settings = PromoteSettings(figure=metric, min_test_crops_per_type=1, bootstrap=100)  # type: ignore[arg-type]
    decision = run(model(2), model(1), pairs, settings=settings)
    shares = []
    for wrong in (1, 2):
        hits = {label: [not row[wrong] for row in rows if row[0] == label] for label in range(4)}
        means = [float(np.mean(hit)) for hit in hits.values() if hit]
        every = list(itertools.chain.from_iterable(hits.values()))
        shares.append(float(np.mean(means)) if metric == "macro_sensitivity" else float(np.mean(every)))
    if decision.outcome == "promoted":
        assert shares[0] >= shares[1] - 1e-9
        falls = [part["difference"] for part in decision.comparison["sensitivity"].values()]
        assert min(falls) >= -settings.margin
    else:
        assert decision.reason
    assert run(model(2), model(1), pairs, settings=settings) == decision


ALLOWED_SPLIT = "data and split of the project"


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (
            {"computed": np.arange(40) > 0},
            "answers computed",
            (
                False,
                "39 of 40",
                "the graph run on every test crop",
                "the crops are not available: dvc checkout data.dvc, or promote.allow_stored_answers",
            ),
        ),
        ({"difference": 1e-3}, "answers as stored", (True, 1e-3, "at most 0.001", "")),
        ({"contradiction": "crop in two parts"}, "split", (False, "crop in two parts", ALLOWED_SPLIT, "")),
        ({"unknown": "no split here"}, "split known", (False, "no split here", ALLOWED_SPLIT, "")),
    ],
)
def test_a_rule_about_the_answers_says_what_was_found(
    change: dict[str, Any], name: str, expected: tuple[object, ...]
) -> None:
    assert read(run(model(1), evidence=replace(evidence_for(model(1)), **change)))[name] == expected


def test_a_refusal_says_what_the_data_and_the_card_lack() -> None:
    touching = Metric(value=0.8, crops=10)
    candidate = model(1, sensitivity={**make_card().sensitivity, "touching": touching}, parity=None)
    decision = run(candidate, evidence=evidence_for(model(1)), validation=Validation(True, "other"))
    found = read(decision)
    note = "the validation looked at other data than the model"
    assert found["data validation"] == (False, "other", "passed, of this very data hash", note)
    assert found["ONNX parity"] == (False, "not measured", "at most 0.0001", "")
    lies = {"sensitivity, touching": {"card": 0.8, "measured": 1.0}}
    assert found["card as measured"] == (False, lies, "what the gate measures", "")
    failed = read(run(candidate, validation=Validation(False, DATA)))["data validation"]
    assert failed == (False, "failed", "passed, of this very data hash", "")


def test_a_claim_about_a_type_that_there_is_not_is_none_that_was_measured() -> None:
    claims = {**make_card().sensitivity, "other": Metric(value=0.5, crops=0)}
    found = read(run(model(1, sensitivity=claims), evidence=evidence_for(model(1))))["card as measured"]
    assert found[:2] == (False, {"sensitivity, other": {"card": 0.5, "measured": 0.0}})


@pytest.mark.parametrize(("claimed", "passed"), [(0.97, True), (0.96, False)])
@pytest.mark.parametrize("name", ["accuracy", "macro_sensitivity"])
def test_a_metric_may_differ_by_a_crop_of_the_smallest_type(name: str, claimed: float, passed: bool) -> None:
    metrics = {**make_card().metrics, name: Metric(value=claimed, crops=40)}
    assert verdict(run(model(1, metrics=metrics)), "card as measured") is passed


def test_the_smallest_type_may_be_of_a_single_crop() -> None:
    candidate = few_overlapping(1)
    assert candidate.card is not None
    metrics = {**candidate.card.metrics, "macro_sensitivity": Metric(value=0.5, crops=31)}
    assert verdict(run(model(1, candidate.card, metrics=metrics)), "card as measured") is True


@pytest.mark.parametrize(("claimed", "threshold", "passed"), [(0.3, 0.6, True), (0.16, 0.6, True), (0.14, 0.6, False)])
def test_the_risk_of_a_type_without_review_is_measured_too(claimed: float, threshold: float, passed: bool) -> None:
    """Three of ten overlapping crops are answered as another type with a confidence of 1."""
    evidence = evidence_for(model(1))
    wrong = answers(evidence.types, (evidence.types == 2) & (np.tile(np.arange(10), 4) < 3))
    doubtful = np.where(np.tile(np.arange(10), 4)[:, None] < 5, wrong, 0.25 + wrong / 4)  # correct, and below 0.6
    risks = dict.fromkeys(TYPE_LABELS, 0.0) | {"overlapping": claimed}
    review = ReviewCard(
        threshold=threshold,
        risk=0.1,
        by_type={
            label: TypeReviewCard(threshold=threshold, crops=10, test=AchievedRisk(crops=10, risk=risk))
            for label, risk in risks.items()
        },
    )
    metrics = {
        "accuracy": Metric(value=0.925, crops=40),
        "macro_sensitivity": Metric(value=0.925, crops=40),
    }
    sensitivity = {**make_card().sensitivity, "overlapping": Metric(value=0.7, crops=10)}
    decision = run(
        model(1, review=review, metrics=metrics, sensitivity=sensitivity),
        evidence=replace(evidence, probabilities=doubtful.astype(np.float32)),
    )
    assert verdict(decision, "card as measured") is passed


def test_the_risk_of_a_type_without_test_crops_is_none() -> None:
    candidate = few_overlapping(0)
    test = AchievedRisk(crops=0)
    by_type = {"overlapping": TypeReviewCard(threshold=0.5, crops=9, test=test), "touching": TypeReviewCard(**UNTESTED)}
    review = ReviewCard(threshold=0.5, risk=0.1, by_type=by_type)
    assert verdict(run(model(1, candidate.card, review=review)), "card as measured") is True


UNTESTED: dict[str, Any] = {"threshold": 0.5, "crops": 9}


def test_too_few_crops_of_every_type_say_so() -> None:
    found = read(run(model(1), settings=PromoteSettings(min_test_crops_per_type=11)))
    note = "of no type are there enough crops to judge; --force REASON overrides"
    assert found["floors"] == (False, 40, "a type with at least 11 crops", note)
    assert found["floor touching"] == (None, 1.0, "at least 0", "too few crops to judge (10 of at least 11)")


METRIC = "macro_sensitivity against production"


def test_a_comparison_with_the_same_or_without_crops_says_why() -> None:
    same = run(replace(model(2), content="same"), replace(model(1), content="same"), note="version 1 is lost")
    assert read(same)[METRIC] == (True, "the same model", "at least equal", "version 1 is lost")
    few = "fewer than 3 shared test crops of a type that neither model has seen"
    lost = "no version that was in production can be read"
    for production, pairs, crops, why in ((model(1), comparison(2, 2, 0), 8, few), (model(1), None, 0, few)):
        note = f"{why}, so nothing can be compared; --force REASON overrides"
        assert read(run(model(2), production, pairs))[METRIC] == (False, crops, "at least equal", note)
    note = f"{lost}, so nothing can be compared; --force REASON overrides"
    assert read(run(model(2), RegisteredModel(1, "old", None)))[METRIC] == (False, 0, "at least equal", note)


def test_three_crops_of_a_type_are_compared_and_what_limits_it_is_noted() -> None:
    types = np.repeat(np.arange(4), [3, 3, 2, 2])
    correct = answers(types, types > 9)
    pairs = replace(pairs_of(types, correct, correct), stored=4)
    decision = run(model(2), model(1), pairs, note="moved by hand")
    limits = "too few crops, so only the floors hold: overlapping, touching-overlapping; 4 answers are stored ones"
    assert decision.comparison["compared"] == ["instance", "touching"]
    assert read(decision)[METRIC][3] == f"difference +0.0000 [+0.0000, +0.0000]; {limits}; moved by hand"
    assert read(run(model(2), model(1), pairs))[METRIC][3] == f"difference +0.0000 [+0.0000, +0.0000]; {limits}"


def test_without_resamples_differences_decide_without_an_interval() -> None:
    decision = run(model(2), model(1), comparison(20, 1, 3), settings=SETTINGS.model_copy(update={"bootstrap": 0}))
    assert decision.outcome == "promoted"
    assert read(decision)[METRIC][3] == "difference +0.0250 [not defined]"
    assert read(decision)["touching not worse"][3] == "95% interval [not defined] on 20 crops of 20 cases"
    assert (decision.comparison["figure"]["low"], decision.comparison["figure"]["high"]) == (None, None)


def test_a_tie_says_what_is_the_same() -> None:
    """A version whose code was not kept is no other than one that says so."""
    tie, same, allowed = comparison(20, 2, 2), make_card(code="code"), "a tie needs other data or code"
    decision = run(replace(model(2, same), shipped=""), model(1, same), tie)
    assert read(decision)["tie"] == (False, "same data and code", allowed, "")
    decision = run(model(2), model(1), tie)
    assert read(decision)["tie"] == (True, "other data or code", allowed, "")


def test_the_decision_names_production_whatever_the_outcome() -> None:
    decisions = [run(model(2), model(1), comparison(20, *wrong)) for wrong in ((1, 3), (3, 1))]
    assert [(one.outcome, one.version, one.production) for one in decisions] == [("promoted", 2, 1), ("refused", 2, 1)]


def test_the_first_model_needs_no_shared_crops() -> None:
    evidence = evidence_for(model(1))
    assert (evidence.contradiction, evidence.unknown, evidence.no_folds) == ("", "", "")
    validation = Validation(True, DATA)
    decision = decide(model(1), None, SETTINGS, validation=validation, evidence=evidence, latency_ms=1.0)
    assert (decision.outcome, decision.comparison, decision.forced) == ("promoted", {}, "")


def test_a_package_that_is_not_what_it_claims_stops_the_pipeline() -> None:
    decision = Decision("refused", "why", 1, None)
    assert (decision.stops_pipeline, decision.rules, decision.forced, decision.comparison) == (False, [], "", {})
    assert Decision("refused", "why", 1, None, [GateRule("package", False, "damaged", "whole")]).stops_pipeline
    assert not Decision("refused", "why", 1, None, [GateRule("latency", False, 9, "8")]).stops_pipeline


def test_a_verdict_of_numpy_is_a_verdict() -> None:
    verdicts: list[Any] = [np.False_, np.True_, None]
    found = [GateRule("any", verdict, 0.0, "").passed for verdict in verdicts]
    assert [verdict is False for verdict in found] == [True, False, False]
    assert found[1:] == [True, None]
