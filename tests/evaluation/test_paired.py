"""The paired bootstrap: a slow loop over resampled cases, pairs that cancel out, and what is not defined."""

import numpy as np
import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.evaluation.intervals import paired_bootstrap
from supcam.evaluation.metrics import confusion, rates


def test_equals_a_slow_loop_over_resampled_cases() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 90)
    first, second = (np.where(rng.random(90) < 0.3, rng.integers(0, 4, 90), labels) for _ in range(2))
    cases = rng.integers(0, 8, 90)
    found = paired_bootstrap(
        labels, first, second, [f"case {case}" for case in cases], repeats=300, confidence=0.9, seed=5
    )
    again = np.random.default_rng(5)
    drawn: dict[str, list[float]] = {"macro_sensitivity": [], "accuracy": [], "sensitivity/touching": []}
    for _ in range(300):
        times = again.multinomial(8, np.full(8, 1 / 8))
        rows = np.repeat(np.arange(90), times[cases])
        ours, theirs = (rates(confusion(labels[rows], predicted[rows])) for predicted in (first, second))
        whole = set(labels[rows]) == set(range(4))
        drawn["accuracy"].append(float(ours["accuracy"] - theirs["accuracy"]))
        drawn["macro_sensitivity"] += [float(ours["macro_sensitivity"] - theirs["macro_sensitivity"])] * whole
        difference = float(ours["sensitivity"][1] - theirs["sensitivity"][1])
        drawn["sensitivity/touching"] += [difference] * (not np.isnan(difference))
    for name, values in drawn.items():
        low, high = np.quantile(values, [0.05, 0.95])
        assert (found[name].low, found[name].high) == (pytest.approx(low), pytest.approx(high)), name


def test_the_same_answers_differ_by_nothing() -> None:
    """Resampled apart, two equal models would differ by chance."""
    labels = np.tile(np.arange(4), 10)
    wrong = np.where(np.arange(40) < 12, (labels + 1) % 4, labels)
    for interval in paired_bootstrap(
        labels, wrong, wrong, list("abcde") * 8, repeats=200, confidence=0.95, seed=1
    ).values():
        assert (interval.low, interval.high) == (0, 0)


def test_one_case_alone_is_resampled_by_crops() -> None:
    labels = np.zeros(50, dtype=np.int64)
    better = np.where(np.arange(50) < 10, 1, 0)
    found = paired_bootstrap(labels, labels, better, ["one"] * 50, repeats=2000, confidence=0.95, seed=2)["accuracy"]
    spread = 1.96 * np.sqrt(0.2 * 0.8 / 50)
    assert (found.low, found.high) == (pytest.approx(0.2 - spread, abs=0.03), pytest.approx(0.2 + spread, abs=0.03))


def test_a_type_without_crops_has_no_interval() -> None:
    labels = np.zeros(6, dtype=np.int64)
    found = paired_bootstrap(labels, labels, labels, list("aabbcc"), repeats=50, confidence=0.95, seed=0)
    assert {f"sensitivity/{label}" for label in TYPE_LABELS} & set(found) == {"sensitivity/instance"}
    assert paired_bootstrap(labels, labels, labels, list("aabbcc"), repeats=0, confidence=0.95, seed=0) == {}
