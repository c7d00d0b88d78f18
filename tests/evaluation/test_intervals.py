"""Intervals: published values, coverage, and the case as the unit; the paired test."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supcam.errors import UsageError
from supcam.evaluation.calibration import calibration_error, reliability
from supcam.evaluation.intervals import bootstrap, mcnemar, probability_bootstrap, resampled_rates, wilson
from supcam.evaluation.metrics import classification_metrics
from supcam.settings import EvaluateSettings


def test_wilson_of_a_published_example() -> None:
    interval = wilson(81, 263)  # Newcombe, Statistics in Medicine 17, 1998, table I
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    edge = wilson(0, 20)
    assert edge is not None and (edge.low, round(edge.high, 4)) == (0.0, 0.1611)
    assert wilson(0, 0) is None


@given(st.integers(1, 500), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_wilson_holds_the_share_and_solves_its_equation(total: int, share: float) -> None:
    hits = round(share * total)
    interval = wilson(hits, total)
    assert interval is not None and 0 <= interval.low <= hits / total <= interval.high <= 1
    z = 1.959963984540054
    for bound in (interval.low, interval.high):
        distance = abs(hits / total - bound)
        assert distance == pytest.approx(z * math.sqrt(max(0.0, bound * (1 - bound)) / total), abs=1e-7)


def test_bootstrap_of_one_crop_per_case_equals_the_binomial_spread() -> None:
    labels = np.zeros(400, dtype=np.int64)
    predicted = np.where(np.arange(400) < 40, 1, 0)
    groups = [f"case {at}" for at in range(400)]
    intervals, notes = bootstrap(labels, predicted, groups, EvaluateSettings(bootstrap=4000, confidence=0.95, seed=1))
    spread = 1.96 * math.sqrt(0.9 * 0.1 / 400)
    assert (intervals["accuracy"].low, intervals["accuracy"].high) == pytest.approx(
        (0.9 - spread, 0.9 + spread), abs=0.006
    )
    assert notes == []


def test_bootstrap_resamples_whole_cases() -> None:
    """Two cases, one all correct and one all wrong: only 0, 1/2 and 1 can be drawn."""
    labels = np.zeros(200, dtype=np.int64)
    predicted = np.repeat([0, 1], 100)
    groups = ["a"] * 100 + ["b"] * 100
    intervals, notes = bootstrap(labels, predicted, groups, EvaluateSettings(bootstrap=500, confidence=0.95, seed=1))
    assert (intervals["accuracy"].low, intervals["accuracy"].high) == (0.0, 1.0)
    assert notes == []


def test_one_case_resamples_crops() -> None:
    labels = np.zeros(200, dtype=np.int64)
    predicted = np.repeat([0, 1], 100)
    intervals, _ = bootstrap(labels, predicted, ["a"] * 200, EvaluateSettings(bootstrap=2000, confidence=0.95, seed=1))
    assert 0.40 < intervals["accuracy"].low < 0.5 < intervals["accuracy"].high < 0.60


def test_resamples_without_a_type_count_for_no_macro_interval() -> None:
    """Of three cases one holds the only touching crops, all wrong: without it macro sensitivity would be 1."""
    labels = np.repeat([0, 0, 1], 50)
    predicted = np.zeros(150, dtype=np.int64)
    groups = np.repeat(["a", "b", "c"], 50).tolist()
    intervals, notes = bootstrap(labels, predicted, groups, EvaluateSettings(bootstrap=2000, confidence=0.95, seed=1))
    assert (intervals["macro_sensitivity"].low, intervals["macro_sensitivity"].high) == (0.5, 0.5)
    assert intervals["accuracy"].high == 1.0
    (lack,) = [note for note in notes if "lack a type" in note]
    assert float(lack.split()[0]) == pytest.approx(100 / 3, abs=3)  # (2/3)^3 + (1/3)^3


def test_bootstrap_is_seeded_and_can_be_off() -> None:
    labels, predicted = np.arange(80) % 4, np.arange(80) % 3
    groups = [str(at % 11) for at in range(80)]
    runs = [
        bootstrap(labels, predicted, groups, EvaluateSettings(bootstrap=300, confidence=0.9, seed=s))[0]
        for s in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert bootstrap(labels, predicted, groups, EvaluateSettings(bootstrap=0, confidence=0.9, seed=5))[0] == {}


@given(st.integers(0, 10_000), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_mcnemar_equals_the_binomial_sum(seed: int, crops: int) -> None:
    rng = np.random.default_rng(seed)
    labels, first, second = rng.integers(0, 4, (3, crops))
    found = mcnemar(labels, first, second)
    only_first = sum(bool(a == y != b) for y, a, b in zip(labels, first, second, strict=True))
    only_second = sum(bool(b == y != a) for y, a, b in zip(labels, first, second, strict=True))
    differ, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(differ, at) for at in range(least + 1)) / 2**differ
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail), abs=1e-12)
    assert mcnemar(labels, second, first).p_value == found.p_value


def test_six_images_separate_nothing() -> None:
    """94.09 and 94.99 % of 659 crops differ by six: ten only one model types correctly, four the other, p = 0.18."""
    labels = np.zeros(659, dtype=np.int64)
    first, second = labels.copy(), labels.copy()
    first[:10] = 1
    second[10:14] = 1
    assert mcnemar(labels, first, second).p_value == pytest.approx(0.1796, abs=1e-4)


def test_predictions_for_other_crops_are_refused() -> None:
    with pytest.raises(UsageError, match=r"got 3 labels, 3 and 2 predictions"):
        mcnemar(np.zeros(3, int), np.zeros(3, int), np.zeros(2, int))


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=settings().max_examples // 3, deadline=None)
def test_resampled_aucs_and_calibration_errors_are_those_of_the_drawn_crops(
    seed: int, crops: int, cases: int, trainings: int
) -> None:
    """Against the metrics of the very crops, drawn out one by one, with ties among the scores."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, 5), crops)
    probabilities = np.round(rng.dirichlet(np.ones(4), (trainings, crops)), 1) + 0.025
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    member = rng.integers(0, cases, crops)
    groups = [str(case) for case in member]
    chosen = EvaluateSettings(reliability_bins=5, bootstrap=7, confidence=0.9, seed=seed)
    intervals = probability_bootstrap(labels, probabilities, groups, chosen)
    names = np.unique(groups)
    units = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    if len(names) == 1:
        units = [np.array([row]) for row in range(crops)]
    times = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), size=7)
    aucs, errors = [], []
    for drawn in times:
        rows = np.concatenate([np.tile(unit, count) for unit, count in zip(units, drawn, strict=True)])
        rows = rows.astype(int)
        errors.append(np.mean([calibration_error(reliability(labels[rows], one[rows], 5)) for one in probabilities]))
        if set(labels[rows]) == set(labels) and len(set(labels)) > 1:
            aucs.append(
                np.mean([classification_metrics(labels[rows], one[rows]).values["macro_auc"] for one in probabilities])
            )
    for name, values in (("calibration_error", errors), ("macro_auc", aucs)):
        if values:
            expected = np.quantile(values, [0.05, 0.95])
            assert (intervals[name].low, intervals[name].high) == pytest.approx(expected, abs=1e-9), name
        else:
            assert name not in intervals


def test_without_resamples_there_are_no_intervals_of_probabilities() -> None:
    probabilities = np.full((1, 8, 4), 0.25)
    labels = np.arange(8) % 4
    chosen = EvaluateSettings(bootstrap=0)
    assert probability_bootstrap(labels, probabilities, ["a", "b"] * 4, chosen) == {}


def test_a_resample_without_a_type_has_no_auc_and_gives_no_warning() -> None:
    """Of two cases one holds all touching crops: half of the resamples lack a type."""
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([[[0.6, 0.4, 0, 0], [0.8, 0.2, 0, 0]] * 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = probability_bootstrap(labels, probabilities, ["a", "a", "b", "b"], EvaluateSettings(bootstrap=50))
    assert (found["macro_auc"].low, found["macro_auc"].high) == (0.5, 0.5)


def test_without_the_only_crop_of_a_type_a_resample_has_no_macro_sensitivity() -> None:
    whole = np.diag([3, 1, 0, 0])
    found = resampled_rates(np.stack([whole, np.diag([4, 0, 0, 0])]), whole)
    assert np.isnan(found["macro_sensitivity"]).tolist() == [False, True]
    assert found["accuracy"].tolist() == [1.0, 1.0]
