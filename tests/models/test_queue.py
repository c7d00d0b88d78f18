"""The key queue against a plain list."""

import io
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from supcam.errors import UsageError
from supcam.losses.self_margin import SelfMarginLoss
from supcam.models.queue import KeyQueue


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(0, 23), max_size=8))
def test_holds_the_last_keys_for_any_batch_sizes(size: int, batches: list[int]) -> None:
    queue, expected, number = KeyQueue(size, 2), deque[float](maxlen=size), 0
    for count in batches:
        values = torch.arange(number, number + count, dtype=torch.float32)
        number += count
        queue.enqueue(values[:, None].expand(-1, 2), values.long() % 4)
        expected.extend(values.tolist())
    kept = queue.keys[queue.valid]
    oldest = int(queue.pointer) if int(queue.filled) == size else 0
    assert kept[:, 0].roll(-oldest).tolist() == list(expected)
    assert queue.labels[queue.valid].tolist() == [int(value) % 4 for value in kept[:, 0].tolist()]
    assert int(queue.pointer) == number % size
    assert int(queue.filled) == min(number, size)


def test_unfilled_slots_are_neither_positive_nor_negative() -> None:
    queue = KeyQueue(8, 3)
    queue.enqueue(normalize(torch.randn(2, 3), dim=1), torch.tensor([0, 1]))
    query = normalize(torch.randn(1, 3), dim=1)
    rows = SelfMarginLoss(0.1, 0.4).rows(query, query, torch.tensor([0]), queue.keys, queue.labels, queue.valid)
    assert (int(rows.positives), int(rows.negatives)) == (2, 1)


def test_a_saved_and_loaded_queue_gives_the_same_next_loss() -> None:
    torch.manual_seed(0)
    queue, loss = KeyQueue(16, 4), SelfMarginLoss(0.1, 0.4)
    for count in (7, 12):
        queue.enqueue(normalize(torch.randn(count, 4), dim=1), torch.randint(4, (count,)))
    stream = io.BytesIO()
    torch.save(queue.state_dict(), stream)
    stream.seek(0)
    loaded = KeyQueue(16, 4)
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    query, labels = normalize(torch.randn(5, 4), dim=1), torch.randint(4, (5,))
    values = []
    for each in (queue, loaded):
        each.enqueue(query.flip(0), labels.flip(0))
        values.append(loss(query, query, labels, each.keys, each.labels, each.valid))
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize(("keys", "labels"), [((3, 5), (3,)), ((3, 4), (2,)), ((4,), (4,))])
def test_shapes_that_do_not_fit_are_refused(keys: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"do not fit a queue of \(8, 4\)"):
        KeyQueue(8, 4).enqueue(torch.zeros(keys), torch.zeros(labels, dtype=torch.long))


def test_an_empty_queue_holds_no_key_and_no_type() -> None:
    """Also as it is saved: a slot that nothing filled belongs to no type, and counts are whole numbers."""
    state = KeyQueue(3, 2).state_dict()
    assert {name: values.tolist() for name, values in state.items()} == {
        "keys": [[0.0, 0.0]] * 3,
        "labels": [-1, -1, -1],
        "pointer": 0,
        "filled": 0,
    }
    assert {name: values.dtype for name, values in state.items() if name != "keys"} == dict.fromkeys(
        ("labels", "pointer", "filled"), torch.long
    )


def test_keys_of_another_precision_are_stored_in_that_of_the_queue() -> None:
    queue = KeyQueue(3, 2)
    queue.enqueue(torch.ones(2, 2, dtype=torch.float64), torch.tensor([0, 1]))
    assert queue.held[0].tolist() == [[1.0, 1.0]] * 2


def test_all_happens_on_the_device_of_the_queue() -> None:
    queue = KeyQueue(3, 2).to("meta")
    queue.enqueue(torch.ones(2, 2, device="meta"), torch.zeros(2, dtype=torch.long, device="meta"))
    assert queue.valid.device.type == "meta"
