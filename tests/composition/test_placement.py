"""Exact placement: the cross-correlation finds what trying every shift finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.composition import reference_shifts
from supcam.cluster_type import Relation
from supcam.composition.composer import SourceCrops
from supcam.composition.masks import core_width, find_body
from supcam.composition.placement import admissible, correlate
from supcam.settings import ComposeSettings

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def masks(shape: tuple[int, int]):
    return arrays(np.bool_, shape)


@settings(max_examples=60)
@given(shapes.flatmap(masks), shapes.flatmap(masks))
def test_every_count_is_the_number_of_shared_pixels(first, second) -> None:
    counts = correlate(first[None].astype(np.float32), second[None].astype(np.float32))[0]
    (height, width), (tall, wide) = first.shape, second.shape
    canvas = np.zeros((height + 2 * tall, width + 2 * wide), dtype=bool)
    canvas[tall : tall + height, wide : wide + width] = first
    assert counts.shape == (height + tall - 1, width + wide - 1)
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            shared = canvas[row + 1 : row + 1 + tall, column + 1 : column + 1 + wide] & second
            assert abs(counts[row, column] - shared.sum()) < 0.01


@pytest.mark.parametrize("relation", [Relation.TOUCH, Relation.OVERLAP])
def test_admissible_shifts_are_those_of_a_plain_search(crops: SourceCrops, relation: Relation) -> None:
    limits = ComposeSettings()
    for a, b in ((0, 1), (2, 20), (17, 5)):
        first, second = (_body(crops.images[row], limits) for row in (a, b))
        fast, slow = admissible(first, second, relation, limits), reference_shifts(first, second, relation, limits)
        np.testing.assert_array_equal(fast.offsets, slow.offsets)
        np.testing.assert_allclose(fast.edges, slow.edges, rtol=1e-5)
        assert len(slow.offsets) > 0


def test_no_composite_outgrows_the_canvas(crops: SourceCrops) -> None:
    limits = ComposeSettings(canvas=64)
    first, second = _body(crops.images[0], limits), _body(crops.images[1], limits)
    offsets = admissible(first, second, Relation.TOUCH, limits).offsets
    top_left = np.minimum(offsets, 0)
    bottom_right = np.maximum(offsets + np.array(second.halo.shape), np.array(first.halo.shape))
    assert (bottom_right - top_left <= 64).all()


def _body(image, limits: ComposeSettings):
    from dataclasses import replace

    body = find_body(image, limits)
    assert body is not None
    return replace(body, width=core_width(body.core))
