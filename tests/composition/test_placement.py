"""Exact placement: the cross-correlation finds what trying every shift finds."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from supcam.cluster_type import Relation
from supcam.composition.contact import window
from supcam.composition.masks import Body, core_width, find_body
from supcam.composition.placement import Shifts, admissible, correlate
from supcam.composition.sources import SourceCrops
from supcam.serving.bodies import dilated
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


def plain_search(
    first: Body, second: Body, relation: Relation, limits: ComposeSettings
) -> Iterator[tuple[tuple[int, int], float]]:
    """Shifts and weights by looking at one placement after the other: slow, and nothing is transformed."""
    smaller_core, smaller_halo = min(first.core_area, second.core_area), min(first.halo_area, second.halo_area)
    most_halo = round(min(limits.max_halo_overlap, limits.max_halo_overlap_share * smaller_halo))
    # An overlap shares 1.2 times the product of the widths or more: with less neither core is split.
    least_core = max(limits.min_core_overlap_share * smaller_core, 1.2 * first.width * second.width)
    near = second.halo & (second.image < limits.core_level + 10)
    (height, width), (tall, wide) = first.halo.shape, second.halo.shape
    for offset in product(range(1 - tall, height), range(1 - wide, width)):
        view = window(first.halo.shape, second.halo.shape, offset)
        halo, other = first.halo[view.first], second.halo[view.second]
        cores = np.count_nonzero(first.core[view.first] & second.core[view.second])
        touching = np.count_nonzero(halo & other)
        contact = np.count_nonzero(dilated(first.halo)[view.first] & other)
        if relation is Relation.OVERLAP:
            if least_core <= cores <= limits.max_core_overlap_share * smaller_core:
                yield offset, 1.0
            continue
        if first.cut or second.cut:  # no room for a pixel between cores, and no halo to share
            apart, least_halo = cores == 0, 0
        else:
            apart = not (dilated(first.core)[view.first] & (second.core | near)[view.second]).any()
            least_halo = 1
        if apart and least_halo <= touching <= most_halo and contact >= limits.min_contact:
            yield offset, float(contact) ** limits.contact_power


@pytest.mark.parametrize("relation", [Relation.TOUCH, Relation.OVERLAP])
def test_admissible_shifts_are_those_of_a_plain_search(crops: SourceCrops, relation: Relation) -> None:
    limits = ComposeSettings()
    for a, b in ((0, 1), (2, 20), (17, 5)):
        first, second = (_body(crops.images[row], limits) for row in (a, b))
        fast, slow = admissible(first, second, relation, limits), list(plain_search(first, second, relation, limits))
        assert [tuple(offset) for offset in fast.offsets.tolist()] == [offset for offset, _ in slow]
        edges = np.cumsum([weight for _, weight in slow])
        np.testing.assert_allclose(fast.edges, edges / edges[-1], rtol=1e-5)


@pytest.mark.parametrize("cut", [(True, False), (False, True)])
def test_a_source_that_was_cut_may_lie_closer(crops: SourceCrops, cut: tuple[bool, bool]) -> None:
    limits = ComposeSettings()
    first, second = (replace(_body(crops.images[row], limits), cut=one) for row, one in zip((3, 30), cut, strict=True))
    found = admissible(first, second, Relation.TOUCH, limits).offsets.tolist()
    assert [tuple(offset) for offset in found] == [
        offset for offset, _ in plain_search(first, second, Relation.TOUCH, limits)
    ]


def test_the_least_contact_is_asked_for_to_the_pixel(crops: SourceCrops) -> None:
    first, second = (_body(crops.images[row], ComposeSettings()) for row in (3, 30))
    shifts = dict(plain_search(first, second, Relation.TOUCH, ComposeSettings(min_contact=1, contact_power=1.0)))
    least = int(min(shifts.values())) + 1
    found = admissible(first, second, Relation.TOUCH, ComposeSettings(min_contact=least)).offsets.tolist()
    assert [tuple(offset) for offset in found] == [offset for offset, contact in shifts.items() if contact >= least]


def test_where_nothing_fits_there_are_no_shifts(crops: SourceCrops) -> None:
    limits = ComposeSettings(min_contact=10_000)
    found = admissible(*(_body(crops.images[row], limits) for row in (0, 1)), Relation.TOUCH, limits)
    assert found.offsets.shape == (0, 2) and found.edges.shape == (0,)


@pytest.mark.parametrize(
    ("number", "drawn"),
    [(0.0, (-1, 7)), (0.2, (-1, 7)), (0.25, (3, 0)), (0.7, (3, 0)), (0.75, (5, -4)), (np.nextafter(1.0, 0.0), (5, -4))],
)
def test_a_shift_is_drawn_by_its_weight(number: float, drawn: tuple[int, int]) -> None:
    """Rounding can leave the last edge below 1, and a number beyond it."""
    shifts = Shifts(np.array([[-1, 7], [3, 0], [5, -4]]), np.array([0.25, 0.75, np.nextafter(1.0, 0.0)]))
    assert shifts.draw(Mock(random=lambda: number)) == drawn


def test_crossings_share_more_than_the_product_of_their_widths(crops: SourceCrops) -> None:
    """Of thin bodies this binds where the share of the smaller core would allow less."""
    limits = ComposeSettings(min_core_overlap_share=0.001)
    first, second = (_body(crops.images[row], limits) for row in (0, 1))
    least = 1.2 * first.width * second.width
    shared = []
    for row, column in admissible(first, second, Relation.OVERLAP, limits).offsets:
        view = window(first.halo.shape, second.halo.shape, (int(row), int(column)))
        shared.append(np.count_nonzero(first.core[view.first] & second.core[view.second]))
    assert least <= min(shared) < least + 5


def test_no_composite_outgrows_the_canvas(crops: SourceCrops) -> None:
    first, second = (_body(crops.images[row], ComposeSettings()) for row in (0, 1))
    offsets = admissible(first, second, Relation.TOUCH, ComposeSettings()).offsets
    top_left = np.minimum(offsets, 0)
    bottom_right = np.maximum(offsets + np.array(second.halo.shape), np.array(first.halo.shape))
    sides = (bottom_right - top_left).max(axis=1)
    for canvas in range(int(sides.min()), int(sides.max()) + 1):
        found = admissible(first, second, Relation.TOUCH, ComposeSettings(canvas=canvas)).offsets
        assert found.tolist() == offsets[sides <= canvas].tolist()


def test_haloes_share_the_most_that_is_set_and_no_pixel_more(crops: SourceCrops) -> None:
    first, second = (_body(crops.images[row], ComposeSettings()) for row in (3, 30))
    limits = ComposeSettings(max_halo_overlap=3, max_halo_overlap_share=1.0)
    found = admissible(first, second, Relation.TOUCH, limits).offsets.tolist()
    shifts = [offset for offset, _ in plain_search(first, second, Relation.TOUCH, limits)]
    assert [tuple(offset) for offset in found] == shifts
    views = [window(first.halo.shape, second.halo.shape, offset) for offset in shifts]
    assert max(np.count_nonzero(first.halo[view.first] & second.halo[view.second]) for view in views) == 3
    more = plain_search(first, second, Relation.TOUCH, ComposeSettings(max_halo_overlap=4, max_halo_overlap_share=1.0))
    assert len(list(more)) > len(shifts)


@pytest.mark.parametrize(("pixels", "most"), [(3.4, 3), (3.7, 4)])
def test_a_share_of_the_halo_is_rounded_to_pixels(crops: SourceCrops, pixels: float, most: int) -> None:
    first, second = (_body(crops.images[row], ComposeSettings()) for row in (3, 30))
    share = ComposeSettings(max_halo_overlap_share=pixels / min(first.halo_area, second.halo_area))
    whole = ComposeSettings(max_halo_overlap=most, max_halo_overlap_share=1.0)
    found = [admissible(first, second, Relation.TOUCH, limits).offsets.tolist() for limits in (share, whole)]
    assert found[0] == found[1] != []


def test_an_overlap_shares_the_least_part_of_the_smaller_core(crops: SourceCrops) -> None:
    """Where that is more than a crossing needs."""
    limits = ComposeSettings(min_core_overlap_share=0.2)
    first, second = (_body(crops.images[row], limits) for row in (2, 20))
    found = admissible(first, second, Relation.OVERLAP, limits).offsets.tolist()
    shifts = [offset for offset, _ in plain_search(first, second, Relation.OVERLAP, limits)]
    assert [tuple(offset) for offset in found] == shifts != []


@pytest.mark.parametrize(("width", "kind"), [(1024, np.float32), (1025, np.float64)])
def test_large_frames_are_counted_in_double_precision(width: int, kind: type) -> None:
    tall, wide = np.ones((1, 1024, 1), dtype=np.float32), np.ones((1, 1, width), dtype=np.float32)
    counts = correlate(tall, wide)
    assert counts.dtype == kind
    np.testing.assert_allclose(counts, np.ones((1, 1024, width)), atol=0.01)


def _body(image, limits: ComposeSettings) -> Body:
    body = find_body(image, limits)
    assert body is not None
    return replace(body, width=core_width(body.core))
