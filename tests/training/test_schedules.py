"""Schedules at their corners."""

import itertools

import pytest

from supcam.training.schedules import averaging_decay, learning_rate_factor, margin_at


def test_the_rate_rises_in_a_line_and_falls_by_a_cosine() -> None:
    factors = [learning_rate_factor(step, 110, 10 / 110) for step in range(111)]
    assert factors[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


def test_no_warmup_starts_at_the_full_rate() -> None:
    assert learning_rate_factor(0, 100, 0.0) == 1.0


def test_the_margin_ramps_from_nothing() -> None:
    assert margin_at(0, 100, 0.4, 0.2) == 0.0
    assert margin_at(10, 100, 0.4, 0.2) == pytest.approx(0.2)
    assert margin_at(20, 100, 0.4, 0.2) == margin_at(99, 100, 0.4, 0.2) == 0.4
    assert margin_at(0, 100, 0.4, 0.0) == 0.4


def test_averaging_forgets_the_start() -> None:
    assert averaging_decay(0, 0.99) == pytest.approx(0.1)
    assert averaging_decay(10_000, 0.99) == 0.99
    assert averaging_decay(5, 0.0) == 0.0
