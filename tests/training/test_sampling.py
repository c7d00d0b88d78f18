"""Batches: balanced over types and laboratories, enough real instances, the same plan everywhere."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supcam.training.crop_bank import CropBank
from supcam.training.sampling import (
    crop_probabilities,
    draw,
    drawn_or_others,
    epoch_plan,
    real_crops,
    type_shares,
)

EVERY = (2**31,) * 4


def bank_of(
    counts: tuple[int, int, int, int],
    *,
    domains: int = 1,
    doubtful: int = 0,
    real: tuple[int, int, int, int] = EVERY,
    drawn: int = 0,
) -> CropBank:
    """Crops of each type, the first ``real`` of each no composites, the last ``drawn`` of each drawn."""
    labels = np.repeat(np.arange(4), counts)
    weights = np.ones(len(labels))
    weights[len(labels) - doubtful :] = 0.5
    each = np.concatenate([np.arange(count) for count in counts])
    return CropBank(
        images=torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8),
        labels=torch.from_numpy(labels),
        weights=weights,
        domains=np.arange(len(labels)) % domains,
        composed=each >= np.repeat(real, counts),
        drawn=each >= np.repeat(counts, counts) - drawn,
    )


def plan_of(bank: CropBank, batch: int, *, seed: int = 1, epoch: int = 0, balance: float = 1.0, share: float = 0.25):  # type: ignore[no-untyped-def]
    return epoch_plan(bank, batch_size=batch, seed=seed, epoch=epoch, balance=balance, min_instance_share=share)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.integers(0, 40)] * 4).filter(lambda counts: sum(counts) >= 4),
    st.integers(2, 24),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_every_batch_is_full_and_has_its_instances(
    counts: tuple[int, int, int, int], batch: int, balance: float, share: float
) -> None:
    bank = bank_of(counts)
    plan = plan_of(bank, batch, balance=balance, share=share)
    labels = bank.labels.numpy()[plan]
    assert plan.shape == (max(1, round(len(bank) / batch)), batch)
    instances = (labels == 0).sum(axis=1)
    if counts[0] and sum(counts[1:]):
        assert (instances >= np.ceil(share * batch - 1e-9)).all()
    assert set(np.unique(labels)) <= {code for code in range(4) if counts[code]}


def test_real_crops_are_all_without_composites() -> None:
    bank = bank_of((12, 9, 8, 7), real=(6, 5, 7, 6))
    assert real_crops(bank).tolist() == np.flatnonzero(~bank.composed).tolist()
    plan = epoch_plan(bank, batch_size=4, seed=1, epoch=0, balance=1.0, min_instance_share=0.25, among=real_crops(bank))
    assert plan.shape == (6, 4)
    assert not bank.composed[plan].any()


def test_a_type_of_hardly_any_real_crops_keeps_some_composites() -> None:
    bank = bank_of((6, 9, 8, 4), real=(6, 3, 0, 4))
    chosen = real_crops(bank)
    assert len(set(chosen)) == len(chosen)
    assert np.bincount(bank.labels.numpy()[chosen], minlength=4).tolist() == [6, 5, 5, 4]
    assert np.bincount(bank.labels.numpy()[chosen[bank.composed[chosen]]], minlength=4).tolist() == [0, 2, 5, 0]


def test_where_no_crop_is_real_all_composites_are_taken() -> None:
    assert len(real_crops(bank_of((0, 90, 0, 40), real=(0, 0, 0, 0)))) == 130


def test_full_balance_makes_types_equally_frequent_up_to_rounding() -> None:
    labels = bank_of((900, 60, 30, 10)).labels.numpy()
    counts = np.bincount(labels[plan_of(bank_of((900, 60, 30, 10)), 64)].ravel(), minlength=4)
    assert np.ptp(counts) <= 1
    per_batch = np.stack([np.bincount(row, minlength=4) for row in labels[plan_of(bank_of((900, 60, 30, 10)), 62)]])
    assert np.abs(per_batch - 15.5).max() <= 1.5


def test_without_balance_types_keep_their_frequencies_but_for_the_instance_floor() -> None:
    np.testing.assert_allclose(type_shares(np.repeat([0, 1], [90, 10]), 0.0, 0.25), [0.9, 0.1, 0, 0])
    np.testing.assert_allclose(type_shares(np.repeat([0, 1, 2], [10, 60, 30]), 0.0, 0.25), [0.25, 0.5, 0.25, 0])


def test_half_balance_takes_types_by_the_root_of_their_frequency() -> None:
    np.testing.assert_allclose(type_shares(np.repeat([0, 1, 2], [64, 16, 4]), 0.5, 0.25), np.array([8, 4, 2, 0]) / 14)


def test_every_crop_comes_up_its_expected_number_of_times() -> None:
    crops, chances = np.arange(10), np.arange(1, 11) / 55.0
    for seed in range(20):
        found = np.bincount(draw(crops, chances, 110, np.random.default_rng(seed)), minlength=10)
        assert (np.abs(found - 110 * chances) < 1.0 + 1e-9).all()


def test_a_laboratory_counts_by_the_root_of_its_crops_and_doubt_by_half() -> None:
    bank = bank_of((0, 100, 0, 0), doubtful=10)
    bank.domains = (np.arange(100) >= 64).astype(np.int64)
    crops, chances = crop_probabilities(bank, 1)
    small = np.sqrt(26 + 10 * 0.5)
    assert chances[crops < 64].sum() == pytest.approx(8.0 / (8.0 + small))
    assert chances[99] == pytest.approx(chances[70] / 2.0)


def test_the_plan_depends_on_seed_and_epoch_alone() -> None:
    bank = bank_of((30, 20, 10, 5))
    first = plan_of(bank, 16, seed=3, epoch=2)
    assert np.array_equal(first, plan_of(bank, 16, seed=3, epoch=2))
    assert not np.array_equal(first, plan_of(bank, 16, seed=3, epoch=3))
    assert not np.array_equal(first, plan_of(bank, 16, seed=4, epoch=2))


def test_a_seed_gives_the_batches_it_has_always_given() -> None:
    """A run that goes on after an update of this code must not see other batches."""
    plan = plan_of(bank_of((5, 4, 3, 2), domains=2, doubtful=1), 4, balance=0.5)
    assert plan.tolist() == [[1, 10, 13, 6], [12, 10, 3, 8], [3, 11, 0, 5], [1, 12, 9, 7]]


def test_drawn_crops_and_the_others_share_the_bank() -> None:
    bank = bank_of((6, 4, 4, 4), real=(3, 1, 1, 1), drawn=2)
    assert drawn_or_others(bank, True).tolist() == [4, 5, 8, 9, 12, 13, 16, 17]
    assert drawn_or_others(bank, False).tolist() == [0, 1, 2, 3, 6, 7, 10, 11, 14, 15]


def test_a_plan_has_as_many_batches_as_asked_for() -> None:
    bank = bank_of((6, 4, 4, 4), drawn=2)
    some = drawn_or_others(bank, True)
    plan = epoch_plan(bank, batch_size=4, seed=1, epoch=0, balance=1.0, min_instance_share=0.25, among=some, steps=7)
    assert plan.shape == (7, 4)
    assert set(plan.ravel().tolist()) == set(some.tolist())


def test_each_of_three_laboratories_counts_by_the_root_of_its_crops() -> None:
    bank = bank_of((0, 29, 0, 0))
    domains = np.repeat([0, 1, 2], [16, 9, 4])
    bank.domains = domains
    _, chances = crop_probabilities(bank, 1)
    np.testing.assert_allclose(np.bincount(domains, chances), np.array([4, 3, 2]) / 9)


def test_a_sample_depends_on_the_ratios_of_the_probabilities_alone() -> None:
    crops, chances = np.arange(10), np.arange(1, 11) / 55.0
    one, other = (draw(crops, chances * factor, 30, np.random.default_rng(1)) for factor in (1.0, 4.0))
    assert one.tolist() == other.tolist()


def test_instances_alone_may_be_asked_to_fill_every_batch() -> None:
    assert type_shares(np.zeros(5, dtype=np.int64), 0.5, 1.0).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_a_type_of_one_crop_counts_as_one() -> None:
    np.testing.assert_allclose(type_shares(np.array([0, 0, 0, 1]), 0.0, 0.0), [0.75, 0.25, 0, 0])


@pytest.mark.parametrize(("start", "last"), [(0.0, [7, 8, 9, 6]), (np.nextafter(1.0, 0.0), [6])])
def test_the_first_and_the_last_start_of_a_sample_draw_crops(start: float, last: list[int]) -> None:
    """Rounding takes the last point of the last start to the very end, behind which there is no crop."""
    rng = Mock(random=lambda: start, permutation=lambda items: np.arange(items) if isinstance(items, int) else items)
    assert draw(np.array([7, 8, 9, 6]), np.full(4, 0.25), 4, rng).tolist()[-len(last) :] == last
