"""Whether a folder is doubted: only when chance does not explain how many crops are unlike those of training."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supcam.evaluation.unlike import UnlikeShare


@settings(deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.001, 0.01, 0.1, 0.3]), st.data())
def test_p_value_sums_the_chances_of_as_many_and_more(crops: int, expected: float, data: st.DataObject) -> None:
    unlike = data.draw(st.integers(0, crops))
    chance = min(Fraction(5) * Fraction(expected), Fraction(1))
    ways = (comb(crops, k) * chance**k * (1 - chance) ** (crops - k) for k in range(unlike, crops + 1))
    assert UnlikeShare(crops, unlike, expected).p_value == pytest.approx(float(sum(ways)), rel=1e-6, abs=1e-12)


def test_a_folder_is_doubted_only_when_chance_does_not_explain_it() -> None:
    assert UnlikeShare(100, 62, 0.01).sentence == (
        "62 % of 100 crops are unlike the training crops, 1 % expected: answers are not to be relied on"
    )
    assert not UnlikeShare(100, 62, 0.01).reliable
    for crops, unlike in ((1, 1), (10, 2), (100, 3), (200, 12)):
        assert UnlikeShare(crops, unlike, 0.01).reliable
    assert UnlikeShare(100, 3, 0.01).sentence == "3 % of 100 crops are unlike the training crops, 1 % expected"


def test_share_is_counted_among_crops_that_have_a_type() -> None:
    reasons = ["", "blank", "unlike the training crops", "cut off at the edge; unlike the training crops", "unreadable"]
    assert UnlikeShare.of(reasons, 0.01) == UnlikeShare(3, 2, 0.01)
    assert UnlikeShare.of(reasons, None) is None and UnlikeShare.of(["blank"], 0.01) is None
