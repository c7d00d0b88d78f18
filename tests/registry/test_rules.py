"""The promotion rule as a pure function: every rule, both ways."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import CalibrationCard, Figure, ModelCard, ParityCard, ReviewCard
from supcam.registry.rules import (
    Comparison,
    Contender,
    Decision,
    Validation,
    compare,
    decide,
    paired_bootstrap,
)
from supcam.settings import PromoteSettings
from tests.registry.conftest import make_card

SETTINGS = PromoteSettings()
PARITY = ParityCard(difference=1e-6, crops=40)


def contender(version: int, card: ModelCard | None = None, **changes: object) -> Contender:
    card = (card or make_card(code=f"code-{version}")).model_copy(update={"parity": PARITY, **changes})
    return Contender(version, f"content-{version}", card)


def verdict(decision: Decision, name: str) -> bool | None:
    return next(rule.passed for rule in decision.rules if rule.name == name)


def answers(types: NDArray[np.int64], wrong: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities that are right but where ``wrong``."""
    chosen = np.where(wrong, (types + 1) % 4, types)
    return np.eye(4, dtype=np.float32)[chosen]


def comparison(per_type: int, candidate_wrong: int, production_wrong: int, of_type: int = 0) -> Comparison:
    types = np.repeat(np.arange(4), per_type)
    position = np.tile(np.arange(per_type), 4)
    of = types == of_type
    return Comparison(
        types,
        answers(types, of & (position < candidate_wrong)),
        answers(types, of & (position < production_wrong)),
    )


def run(
    candidate: Contender, production: Contender | None = None, pairs: Comparison | None = None, **changes: object
) -> Decision:
    arguments: dict[str, object] = {
        "validation": Validation(True, "data-1"),
        "comparison": pairs,
        "latency_ms": 1.0,
    } | changes
    return decide(candidate, production, SETTINGS, **arguments)  # type: ignore[arg-type]


def test_first_model_is_promoted() -> None:
    decision = run(contender(1))
    assert (decision.outcome, decision.reason) == ("promoted", "first model in production")


def test_same_content_has_nothing_to_do() -> None:
    production = replace(contender(1), content="same")
    assert run(replace(contender(2), content="same"), production).outcome == "nothing to do"


@pytest.mark.parametrize(
    ("validation", "value"),
    [
        (None, "no record"),
        (Validation(False, "data-1"), "failed"),
        (Validation(True, "other"), "other"),
    ],
)
def test_data_validation_of_the_very_data_is_needed(validation: Validation | None, value: str) -> None:
    decision = run(contender(1), validation=validation, force="urgent")
    assert decision.outcome == "refused"
    assert decision.data_failed
    assert decision.rules[0].value == value


def test_floor_of_a_type_refuses_and_force_overrides_it() -> None:
    settings = PromoteSettings(floors={"touching": 0.95})
    arguments = {"validation": Validation(True, "data-1"), "comparison": None, "latency_ms": 1.0}
    decision = decide(contender(1), None, settings, **arguments)  # type: ignore[arg-type]
    assert (decision.outcome, verdict(decision, "floor touching")) == ("refused", False)
    assert verdict(decision, "floor overlapping") is True
    forced = decide(contender(1), None, settings, **arguments, force="clinic needs it")  # type: ignore[arg-type]
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
        ({"calibration": CalibrationCard(error=0.5)}, "calibration", True),
    ],
)
def test_each_rule_of_the_card_refuses(changes: dict[str, object], rule: str, forcible: bool) -> None:
    decision = run(contender(1, **changes))
    assert (decision.outcome, verdict(decision, rule)) == ("refused", False)
    assert rule in decision.reason
    assert (run(contender(1, **changes), force="reason").outcome == "promoted") is forcible


def test_latency_and_rollback_refuse() -> None:
    assert verdict(run(contender(1), latency_ms=501.0), "latency") is False
    assert verdict(run(contender(1), withdrawn=True), "not rolled back") is False
    assert run(contender(1), withdrawn=True, force="fixed the cause").outcome == "promoted"


def test_a_type_without_test_crops_has_no_floor() -> None:
    figures = {**make_card().sensitivity, "overlapping": Figure(value=0.0, crops=0)}
    decision = run(contender(1, sensitivity=figures))
    assert (decision.outcome, verdict(decision, "floor overlapping")) == ("promoted", None)


def test_better_is_promoted_and_worse_is_refused() -> None:
    better = run(contender(2), contender(1), comparison(20, 1, 3))
    assert better.outcome == "promoted"
    worse = run(contender(2), contender(1), comparison(20, 3, 1))
    assert (worse.outcome, verdict(worse, "macro_sensitivity against production")) == ("refused", False)
    assert worse.comparison["figure"]["difference"] == pytest.approx(-0.025)


def test_a_type_that_falls_beyond_the_margin_refuses_a_better_figure() -> None:
    types = np.repeat(np.arange(4), 100)
    position = np.tile(np.arange(100), 4)
    candidate = answers(types, (types == 2) & (position < 30))
    production = answers(types, (types != 2) & (position < 20))
    decision = run(contender(2), contender(1), Comparison(types, candidate, production))
    assert verdict(decision, "macro_sensitivity against production") is True
    assert (decision.outcome, verdict(decision, "overlapping not worse")) == ("refused", False)


@pytest.mark.parametrize(("lost", "passed"), [(0, True), (2, True), (3, False)])
def test_a_type_may_fall_by_the_margin_and_not_by_a_crop_more(lost: int, passed: bool) -> None:
    """Overlapping loses ``lost`` of 100 crops net, margin 0.02; touching gains, so that the figure rises."""
    types = np.repeat(np.arange(4), 100)
    position = np.tile(np.arange(100), 4)
    production = answers(types, ((types == 1) & (position < 20)) | ((types == 2) & (position < 5)))
    # The errors lie elsewhere than production's: pairs are compared, only their balance counts.
    candidate = answers(types, (types == 2) & (position >= 95 - lost))
    decision = run(contender(2), contender(1), Comparison(types, candidate, production))
    rule = next(rule for rule in decision.rules if rule.name == "overlapping not worse")
    assert (rule.passed, rule.value) == (passed, pytest.approx(-lost / 100))
    assert decision.outcome == ("promoted" if passed else "refused")
    assert rule.allowed == "a fall of at most 0.02"
    assert rule.note.startswith("95% interval [") and rule.note.endswith("on 100 crops")


def test_a_wide_interval_excuses_no_fall() -> None:
    """On 20 crops the interval of a lost one reaches above the margin; the fall of 0.05 still is beyond it."""
    types = np.repeat(np.arange(4), 20)
    position = np.tile(np.arange(20), 4)
    candidate = answers(types, (types == 2) & (position < 1))
    production = answers(types, (types == 1) & (position < 5))
    decision = run(contender(2), contender(1), Comparison(types, candidate, production))
    assert decision.comparison["sensitivity"]["overlapping"]["high"] >= 0
    assert (decision.outcome, verdict(decision, "overlapping not worse")) == ("refused", False)


def test_an_equal_figure_is_enough_and_a_lower_one_is_not() -> None:
    """Types may change places within the margin; the figure itself may not fall at all."""
    types = np.repeat(np.arange(4), 100)
    position = np.tile(np.arange(100), 4)
    production = answers(types, (types == 1) & (position < 2))
    for lost, passed in ((2, True), (1, True), (3, False)):
        candidate = answers(types, (types == 2) & (position < lost))
        settings = PromoteSettings(margin=0.05)
        decision = decide(
            contender(2),
            contender(1),
            settings,
            validation=Validation(True, "data-1"),
            comparison=Comparison(types, candidate, production),
            latency_ms=1.0,
        )
        assert verdict(decision, "overlapping not worse") is True
        assert verdict(decision, "macro_sensitivity against production") is passed
        assert decision.outcome == ("promoted" if passed else "refused")


def test_a_tie_promotes_only_other_data_or_code() -> None:
    tie = comparison(20, 2, 2)
    same = make_card(code="code")
    assert verdict(run(contender(2, same), contender(1, same), tie), "tie") is False
    assert run(contender(2, make_card(code="new")), contender(1, same), tie).outcome == "promoted"
    assert run(contender(2, same), contender(1, make_card(data="old", code="code")), tie).outcome == "promoted"
    assert run(replace(contender(2, same), shipped="mended"), contender(1, same), tie).outcome == "promoted"
    assert run(contender(2, same), contender(1, same), None).outcome == "refused"


def test_too_few_shared_crops_fall_back_to_the_floors_and_say_so() -> None:
    decision = run(contender(2), contender(1), comparison(2, 2, 0))
    rule = next(rule for rule in decision.rules if "against production" in rule.name)
    assert (decision.outcome, rule.passed) == ("promoted", None)
    assert "the floors decide" in rule.note
    assert decision.comparison["too_few"] == dict.fromkeys(TYPE_LABELS, 2)


def test_types_with_too_few_crops_are_left_out_of_the_figure() -> None:
    types = np.array([0] * 10 + [3])
    pairs = Comparison(types, answers(types, types == 3), answers(types, types == 9))
    summary = compare(pairs, SETTINGS)
    assert summary["compared"] == ["instance"]
    assert summary["figure"]["difference"] == 0.0


def test_unreadable_production_falls_back_to_the_floors() -> None:
    decision = run(contender(2), Contender(1, "old", None), None)
    assert decision.outcome == "promoted"
    rule = next(rule for rule in decision.rules if "against production" in rule.name)
    assert (rule.passed, rule.note) == (None, "version 1 in production cannot be read, so the floors decide")


def test_bootstrap_by_counts_equals_resampling_pairs() -> None:
    """The quick draw must have the distribution of resampled pairs: same mean and spread."""
    generator = np.random.default_rng(1)
    right, before = generator.random(60) < 0.8, generator.random(60) < 0.7
    quick = paired_bootstrap(right, before, 20_000, generator)
    rows = generator.integers(0, 60, (20_000, 60))
    slow = (right[rows].astype(float) - before[rows]).mean(axis=1)
    assert quick.mean() == pytest.approx(slow.mean(), abs=0.003)
    assert quick.std() == pytest.approx(slow.std(), rel=0.03)
    assert np.quantile(quick, [0.025, 0.975]) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.02)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=80),
    st.sampled_from(["macro_sensitivity", "accuracy"]),
)
def test_never_promotes_a_lower_figure_or_a_type_that_falls(rows: list[tuple[int, bool, bool]], figure: str) -> None:
    types = np.array([row[0] for row in rows])
    pairs = Comparison(
        types, answers(types, np.array([row[1] for row in rows])), answers(types, np.array([row[2] for row in rows]))
    )
    settings = PromoteSettings(figure=figure, min_test_crops_per_type=1, bootstrap=100)  # type: ignore[arg-type]
    decision = decide(
        contender(2), contender(1), settings, validation=Validation(True, "data-1"), comparison=pairs, latency_ms=1.0
    )
    shares = []
    for wrong in (1, 2):
        hits = {label: [not row[wrong] for row in rows if row[0] == label] for label in range(4)}
        means = [float(np.mean(hit)) for hit in hits.values() if hit]
        every = list(itertools.chain.from_iterable(hits.values()))
        shares.append(float(np.mean(means)) if figure == "macro_sensitivity" else float(np.mean(every)))
    if decision.outcome == "promoted":
        assert shares[0] >= shares[1] - 1e-9
        falls = [part["difference"] for part in decision.comparison["sensitivity"].values()]
        assert min(falls) >= -settings.margin
    else:
        assert decision.reason
    assert (
        decide(
            contender(2),
            contender(1),
            settings,
            validation=Validation(True, "data-1"),
            comparison=pairs,
            latency_ms=1.0,
        )
        == decision
    )
