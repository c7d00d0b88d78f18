"""Metrics of several seeds are the mean of each seed's, intervals resample cases, and pairs are compared as pairs."""

import numpy as np
import pandas as pd
import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.cases import ONE_CASE, subsets
from supcam.evaluation.intervals import mcnemar
from supcam.evaluation.metrics import confusion, rates
from supcam.evaluation.repeats import compare_repeats, holm, repeated_metrics
from supcam.settings import EvaluateSettings

SETTINGS = EvaluateSettings(bootstrap=400)


def crops(count: int = 240, cases: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "crop_id": [f"c{row}" for row in range(count)],
            "type": [TYPE_LABELS[row % 4] for row in range(count)],
            "source": "lab",
            "case_id": [f"case{row // 4 % cases}" for row in range(count)],
            "label_certain": True,
        }
    )


def answers(frame: pd.DataFrame, seeds: int, correct: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = frame["type"].map(TYPE_LABELS.index).to_numpy()
    other = (labels + rng.integers(1, 4, (seeds, len(frame)))) % 4
    return np.where(rng.random((seeds, len(frame))) < correct, labels, other)


def test_value_is_the_mean_of_the_seeds() -> None:
    frame = crops()
    predicted = answers(frame, 3, 0.8)
    labels = frame["type"].map(TYPE_LABELS.index).to_numpy()
    found = repeated_metrics(frame, predicted, SETTINGS)
    for metric in ("accuracy", "macro_sensitivity", "macro_specificity"):
        single = [float(rates(confusion(labels, row))[metric]) for row in predicted]
        assert found[metric]["per_seed"] == pytest.approx(single)
        assert found[metric]["value"] == pytest.approx(np.mean(single))
        assert found[metric]["low"] < found[metric]["value"] < found[metric]["high"]
    assert (found["crops"], found["cases"], found["seeds"]) == (240, 12, 3)
    assert found["per_type"]["touching"]["crops"] == 60


def test_seeds_that_agree_do_not_narrow_the_interval() -> None:
    frame = crops()
    once = answers(frame, 1, 0.8)
    one, three = (repeated_metrics(frame, np.tile(once, (times, 1)), SETTINGS) for times in (1, 3))
    assert three["accuracy"]["low"] == pytest.approx(one["accuracy"]["low"])
    assert three["accuracy"]["high"] == pytest.approx(one["accuracy"]["high"])


def test_a_case_all_wrong_widens_the_interval() -> None:
    frame = crops()
    labels = frame["type"].map(TYPE_LABELS.index).to_numpy()
    scattered = np.where(np.arange(240) % 12 == 5, (labels + 1) % 4, labels)[None]
    in_cases = np.where(frame["case_id"].isin(["case3"]), (labels + 1) % 4, labels)[None]
    assert scattered.shape == in_cases.shape
    assert (scattered != labels).sum() == (in_cases != labels).sum() == 20
    spread, clustered = (repeated_metrics(frame, rows, SETTINGS)["accuracy"] for rows in (scattered, in_cases))
    assert clustered["high"] - clustered["low"] > 1.5 * (spread["high"] - spread["low"])


def test_one_case_resamples_crops_and_says_so() -> None:
    frame = crops(cases=1)
    predicted = answers(frame, 2, 0.8)
    found = repeated_metrics(frame, predicted, SETTINGS)
    assert found["notes"] == [ONE_CASE]
    assert 0.05 < found["accuracy"]["high"] - found["accuracy"]["low"] < 0.2


def test_a_missing_type_is_stated_and_never_nan() -> None:
    frame = crops()
    frame = frame[frame["type"] != "overlapping"].reset_index(drop=True)
    found = repeated_metrics(frame, answers(frame, 2, 0.9), SETTINGS)
    assert found["per_type"]["overlapping"] == {
        "crops": 0, "value": None, "low": None, "high": None, "per_seed": [None, None]
    }  # fmt: skip
    assert "no crop of type overlapping" in found["notes"][0]
    assert found["macro_sensitivity"]["value"] > 0.8


def test_paired_difference_and_mcnemar() -> None:
    frame = crops()
    better, worse = answers(frame, 1, 0.95, seed=1), answers(frame, 1, 0.7, seed=2)
    found = compare_repeats(frame, better, worse, SETTINGS, "accuracy")
    labels = frame["type"].map(TYPE_LABELS.index).to_numpy()
    assert found.difference == pytest.approx((better == labels).mean() - (worse == labels).mean())
    assert found.p_value == mcnemar(labels, better[0], worse[0]).p_value < 1e-6
    assert found.low is not None and 0 < found.low < found.difference < (found.high or 0)
    back = compare_repeats(frame, worse, better, SETTINGS, "accuracy")
    assert (back.difference, back.low) == pytest.approx((-found.difference, -(found.high or 0)))


def test_a_resample_without_a_type_is_no_difference_and_never_nan() -> None:
    """Each case holds one type: half of the resamples lack one, and a single one may leave no interval."""
    frame = crops(count=40).assign(type=["instance"] * 20 + ["touching"] * 20, case_id=["a"] * 20 + ["b"] * 20)
    better = np.repeat([[0, 1]], 20, axis=1)
    worse = np.zeros_like(better)
    found = compare_repeats(frame, better, worse, SETTINGS)
    assert (found.difference, found.low, found.high) == (0.5, 0.5, 0.5)
    lows = {compare_repeats(frame, better, worse, EvaluateSettings(bootstrap=1, seed=at)).low for at in range(12)}
    assert lows == {0.5, None}


def test_equal_answers_differ_by_nothing() -> None:
    frame = crops()
    same = answers(frame, 3, 0.8)
    found = compare_repeats(frame, same, same, SETTINGS)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_p_value_of_several_seeds_keeps_its_level_when_they_are_all_one() -> None:
    """Three copies of one seed hold no more evidence than one: the p-value must not fall."""
    frame = crops()
    first, second = answers(frame, 1, 0.8, seed=3), answers(frame, 1, 0.75, seed=4)
    one = compare_repeats(frame, first, second, SETTINGS).p_value
    three = compare_repeats(frame, np.tile(first, (3, 1)), np.tile(second, (3, 1)), SETTINGS).p_value
    assert three == pytest.approx(min(1.0, 2 * one))


def test_unpaired_predictions_are_refused() -> None:
    frame = crops()
    with pytest.raises(UsageError, match="cannot be paired"):
        compare_repeats(frame, answers(frame, 2, 0.8), answers(frame, 3, 0.8), SETTINGS)
    with pytest.raises(UsageError, match="do not fit 240 crops"):
        repeated_metrics(frame, answers(frame, 2, 0.8)[:, :100], SETTINGS)
    with pytest.raises(UsageError, match="no crop to evaluate"):
        repeated_metrics(frame.iloc[:0], np.zeros((1, 0), int), SETTINGS)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_subsets_tell_sources_and_certain_labels_apart() -> None:
    frame = crops(count=8).assign(source=["a"] * 4 + ["b"] * 4, label_certain=[False] + [True] * 7)
    found = {name: int(rows.sum()) for name, rows in subsets(frame).items()}
    assert found == {"all crops": 8, "a": 4, "b": 4, "all crops, label_certain not no": 7, "a, label_certain not no": 3}
