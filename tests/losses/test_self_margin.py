"""Every fact that the method states about the losses, against loops and closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from supcam.errors import SettingError
from supcam.losses.self_margin import SelfMarginLoss, margin_logits, similarities
from supcam.losses.supcon_out import supcon_out_loss
from supcam.losses.unified import PairLogSumExp, masked_logsumexp, unified_loss
from tests.losses.loops import looped_rows

BASES = ("unified", "supcon_out")
PLACES = ("none", "self", "all")
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def batch_of(seed: int, rows: int = 6, slots: int = 17, dim: int = 5, dtype: torch.dtype = torch.float64) -> Batch:
    """Random unit queries, keys and queue with labels of four types and a validity mask."""
    source = torch.Generator().manual_seed(seed)
    vectors = [
        normalize(torch.randn(n, dim, generator=source, dtype=torch.float64), dim=1) for n in (rows, rows, slots)
    ]
    labels = torch.randint(4, (rows,), generator=source)
    queue_labels = torch.randint(4, (slots,), generator=source)
    valid = torch.rand(slots, generator=source) < 0.8
    query, key, queue = (part.to(dtype) for part in vectors)
    return query, key, labels, queue, queue_labels, valid


def loss_of(base: str, place: str = "self", margin: float = 0.4, temperature: float = 0.1) -> SelfMarginLoss:
    return SelfMarginLoss(temperature, margin, place, base)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_equals_the_naive_loops(base: str, place: str, dtype: torch.dtype, tolerance: float) -> None:
    for seed in range(6):
        for temperature, margin in ((0.05, 0.7), (0.1, 0.4), (0.5, 0.2)):
            batch = batch_of(seed, dtype=dtype)
            got = loss_of(base, place, margin, temperature).rows(*batch).loss
            expected = looped_rows(*batch, margin=margin, margin_on=place, base=base, temperature=temperature)
            torch.testing.assert_close(
                got.double(), torch.tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_no_margin_equals_the_base_loss_bitwise(base: str, place: str) -> None:
    batch = batch_of(1, rows=32, slots=64, dtype=torch.float32)
    parts = similarities(normalize(batch[0], dim=1), normalize(batch[1], dim=1), batch[2], batch[3], *batch[4:])
    pure = {"unified": unified_loss, "supcon_out": supcon_out_loss}[base](
        torch.cat([parts.own, parts.others], dim=1) / 0.1, parts.positive, parts.negative
    )
    assert torch.equal(loss_of(base, place, margin=0.0).rows(*batch).loss, pure)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_one_positive_reduces_to_infonce(base: str, place: str) -> None:
    query, key, labels, queue, queue_labels, valid = batch_of(2)
    queue_labels = torch.full_like(queue_labels, 3)
    labels = torch.zeros_like(labels)
    batch = (query, key, labels, queue, queue_labels, valid)
    loss = loss_of(base, place)
    logits = margin_logits(similarities(*batch), loss.margin, loss.margin_on, loss.temperature)
    kept = torch.cat([torch.ones(1, dtype=torch.bool), valid])
    expected = cross_entropy(logits[:, kept], torch.zeros_like(labels), reduction="none")
    torch.testing.assert_close(loss.rows(*batch).loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", BASES)
def test_gradients_by_the_logits_of_a_row_add_up_to_zero(base: str) -> None:
    parts = similarities(*batch_of(3))
    logits = (torch.cat([parts.own, parts.others], dim=1) / 0.1).requires_grad_()
    function = unified_loss if base == "unified" else supcon_out_loss
    (gradient,) = torch.autograd.grad(function(logits, parts.positive, parts.negative).sum(), logits)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(len(logits), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_gradients_equal_finite_differences(base: str, place: str) -> None:
    query, *others = batch_of(4, rows=3, slots=7)
    loss = loss_of(base, place, temperature=0.3)
    assert torch.autograd.gradcheck(lambda q: loss.rows(q, *others).loss, (query.requires_grad_(),))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_value_and_gradient_are_finite_when_query_and_key_coincide_or_oppose(
    base: str, place: str, sign: float
) -> None:
    query, _, labels, queue, queue_labels, valid = batch_of(5, dtype=torch.float32)
    query = query.requires_grad_()
    value = loss_of(base, place, 0.7, 0.05)(query, sign * query.detach(), labels, queue, queue_labels, valid)
    (gradient,) = torch.autograd.grad(value, query)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_cosines_slightly_above_one_are_finite() -> None:
    parts = similarities(*batch_of(6, dtype=torch.float32))
    above = [torch.full_like(part, 1.0 + 3e-7).requires_grad_() for part in (parts.own, parts.others)]
    logits = margin_logits(parts._replace(own=above[0], others=above[1]), 0.4, "all", 0.05)
    gradients = torch.autograd.grad(unified_loss(logits, parts.positive, parts.negative).sum(), above)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("place", ["self", "all"])
def test_unified_never_falls_when_the_margin_grows(place: str) -> None:
    for seed in range(20):
        batch = batch_of(seed)
        rows = [loss_of("unified", place, margin).rows(*batch).loss for margin in torch.linspace(0, 1.5, 16).tolist()]
        assert (torch.stack(rows).diff(dim=0) >= -1e-9).all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_queue_order_and_a_common_rotation_do_not_matter(base: str, place: str) -> None:
    query, key, labels, queue, queue_labels, valid = batch_of(7)
    loss = loss_of(base, place)
    expected = loss.rows(query, key, labels, queue, queue_labels, valid).loss
    order = torch.randperm(len(queue), generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    shuffled = loss.rows(query, key, labels, queue[order], queue_labels[order], valid[order]).loss
    rotated = loss.rows(query @ turned, key @ turned, labels, queue @ turned, queue_labels, valid).loss
    torch.testing.assert_close(shuffled, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rotated, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("base", BASES)
def test_an_invalid_slot_equals_a_shorter_queue(base: str) -> None:
    query, key, labels, queue, queue_labels, valid = batch_of(8)
    loss = loss_of(base)
    spoiled = torch.where(valid[:, None], queue, 1e3)
    masked = loss.rows(query, key, labels, spoiled, queue_labels, valid)
    short = loss.rows(
        query, key, labels, queue[valid], queue_labels[valid], torch.ones(int(valid.sum()), dtype=torch.bool)
    )
    torch.testing.assert_close(masked.loss, short.loss, rtol=1e-12, atol=1e-12)
    assert torch.equal(masked.positives, short.positives)
    assert torch.equal(masked.negatives, short.negatives)


@pytest.mark.parametrize("base", BASES)
def test_equal_cosines_give_the_uniform_value(base: str) -> None:
    _, _, labels, queue, queue_labels, valid = batch_of(9)
    zeros, flat = torch.zeros(len(labels), 5, dtype=torch.float64), torch.zeros_like(queue)
    rows = loss_of(base, margin=0.0).rows(zeros, zeros, labels, flat, queue_labels, valid)
    for row, label in enumerate(labels):
        same = int((valid & (queue_labels == label)).sum())
        positives, negatives = 1 + same, int(valid.sum()) - same
        closed = math.log(1 + negatives * positives) if base == "unified" else math.log(negatives + positives)
        assert float(rows.loss[row]) == pytest.approx(closed, abs=1e-12)
        assert float(rows.uniform[row]) == pytest.approx(closed, abs=1e-12)
        assert (int(rows.positives[row]), int(rows.negatives[row])) == (positives, negatives)


@pytest.mark.parametrize("valid_any", [False, True])
def test_rows_without_negatives(valid_any: bool) -> None:
    query, key, labels, queue, queue_labels, _ = batch_of(10)
    labels, queue_labels = torch.ones_like(labels), torch.ones_like(queue_labels)
    valid = torch.full((len(queue),), valid_any)
    batch = (query.requires_grad_(), key, labels, queue, queue_labels, valid)
    unified, supcon = (loss_of(base).rows(*batch) for base in BASES)
    (gradient,) = torch.autograd.grad(unified.loss.sum(), query)
    assert torch.equal(unified.loss, torch.zeros_like(unified.loss))
    assert torch.equal(gradient, torch.zeros_like(gradient))
    expected = looped_rows(query.detach(), *batch[1:], margin=0.4, margin_on="self", base="supcon_out", temperature=0.1)
    torch.testing.assert_close(supcon.loss.detach(), torch.tensor(expected, dtype=torch.float64))
    assert bool((supcon.loss.abs() < 1e-12).all()) is not valid_any  # zero only with a single positive
    assert int((unified.negatives == 0).sum()) == len(labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_half_precision_input_is_finite_at_the_lowest_temperature(base: str, place: str, dtype: torch.dtype) -> None:
    query, *others = batch_of(11, rows=16, slots=256, dtype=dtype)
    query = query.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rows = loss_of(base, place, 0.7, 0.05).rows(query, *others)
    (gradient,) = torch.autograd.grad(rows.loss.mean(), query)
    assert rows.loss.dtype == torch.float32
    assert torch.isfinite(rows.loss).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_autocast_around_the_loss_rounds_nothing(base: str, place: str) -> None:
    batch = batch_of(14, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(base, place).rows(*batch).loss
    expected = looped_rows(*batch, margin=0.4, margin_on=place, base=base, temperature=0.1)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("base", BASES)
def test_a_queue_of_another_type_is_normalised_after_the_cast(base: str) -> None:
    query, key, labels, queue, *slots = batch_of(15, dtype=torch.float32)
    rounded = queue.bfloat16()
    wide = rounded.float()
    assert (wide.norm(dim=1) - 1.0).abs().max() > 1e-3  # the cast alone leaves the unit sphere
    found = loss_of(base).rows(query, key, labels, rounded, *slots).loss
    assert torch.equal(found, loss_of(base).rows(query, key, labels, normalize(wide, dim=1), *slots).loss)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_a_queue_as_large_as_the_batch_equals_the_in_batch_loss(base: str, place: str) -> None:
    query, key, labels, *_ = batch_of(12)
    loss = loss_of(base, place)
    everything = torch.ones(len(key), dtype=torch.bool)
    queued = loss.rows(query, key, labels, key, labels, everything).loss
    looped = looped_rows(
        query, key, labels, key, labels, everything, margin=0.4, margin_on=place, base=base, temperature=0.1
    )
    torch.testing.assert_close(queued, torch.tensor(looped, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_the_margin_of_a_call_replaces_the_own_one() -> None:
    batch = batch_of(13)
    assert torch.equal(loss_of("unified", margin=0.6)(*batch, margin=0.2), loss_of("unified", margin=0.2)(*batch))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": 0.001}, "pretrain.temperature"),
        ({"temperature": 1.01}, "pretrain.temperature"),
        ({"temperature": math.nan}, "pretrain.temperature"),
        ({"margin": 1.5707}, "pretrain.margin"),
        ({"margin": -0.1}, "pretrain.margin"),
        ({"margin_on": "some"}, "pretrain.margin_on"),
        ({"base": "triplet"}, "pretrain.loss"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_setting(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        SelfMarginLoss(**({"temperature": 0.1, "margin": 0.4, "margin_on": "self", "base": "unified"} | wrong))


@pytest.mark.parametrize("accepted", [{"temperature": 0.01}, {"temperature": 1.0}, {"margin": 0.0}, {"margin": 1.5706}])
def test_the_bounds_of_a_setting_are_accepted(accepted: dict[str, float]) -> None:
    loss = SelfMarginLoss(**({"temperature": 0.1, "margin": 0.4} | accepted))
    assert all(getattr(loss, name) == value for name, value in accepted.items())


def test_rows_of_far_apart_levels_do_not_change_each_other() -> None:
    """Single precision holds no exp of a difference of 200: every row needs a maximum of its own."""
    logits = torch.tensor([[100.0, 99.0, 101.0], [-100.0, -99.0, -101.0]])
    positive = torch.tensor([[True, False, False]] * 2)
    together = unified_loss(logits, positive, ~positive)
    alone = torch.cat([unified_loss(logits[row : row + 1], positive[:1], ~positive[:1]) for row in range(2)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(alone, supcon_out_loss(logits, positive, ~positive))


def test_log_sum_exp_of_no_value_is_zero_without_gradient() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    found = masked_logsumexp(values, torch.tensor([[True, True], [False, False]]))
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert found.tolist() == [pytest.approx(math.log(math.exp(1.0) + math.exp(2.0))), 0.0]
    assert gradient[1].tolist() == [0.0, 0.0]


def test_masks_are_made_on_the_device_of_the_queries() -> None:
    parts = similarities(*(part.to("meta") for part in batch_of(16)))
    assert {part.device.type for part in parts} == {"meta"}


def test_a_row_without_negatives_is_zero_beside_one_that_has_them() -> None:
    logits, positive = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[True, True], [True, False]])
    assert unified_loss(logits, positive, ~positive).tolist() == [0.0, pytest.approx(math.log(1.0 + math.e))]


def test_a_set_without_slots_adds_nothing_to_the_sum_of_the_two() -> None:
    logits, positive = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[True, True], [False, False]])
    found = PairLogSumExp.apply(logits, positive, ~positive)  # type: ignore[no-untyped-call]
    of_positives, of_negatives = (math.log(math.exp(sign) + math.exp(2 * sign)) for sign in (-1, 1))
    assert found.tolist() == [pytest.approx(of_positives), pytest.approx(of_negatives)]


def test_a_key_of_another_type_is_normalised_after_the_cast() -> None:
    query, key, *others = batch_of(17, dtype=torch.float32)
    rounded, loss = key.bfloat16(), loss_of("unified")
    assert torch.equal(loss.rows(query, rounded, *others).loss, loss.rows(query, rounded.float(), *others).loss)
