"""Beer-Lambert blending: identities that hold for every pair of grey values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from supcam.composition.assembly import blend

greys = arrays(np.uint8, (7, 9))
floors = st.integers(0, 254)


@given(greys, greys, floors)
def test_order_does_not_matter_and_nothing_gets_lighter(a, b, floor) -> None:
    out = blend(a, b, floor)
    np.testing.assert_array_equal(out, blend(b, a, floor))
    assert (out <= np.minimum(a, b)).all()


@given(greys, floors)
def test_white_is_the_identity(a, floor) -> None:
    np.testing.assert_array_equal(blend(a, np.full_like(a, 255), floor), a)


@given(greys, greys, floors)
def test_background_stays_255_and_only_background(a, b, floor) -> None:
    np.testing.assert_array_equal(blend(a, b, floor) == 255, (a == 255) & (b == 255))


@given(greys, greys, floors)
def test_no_darker_than_the_floor_unless_a_source_is(a, b, floor) -> None:
    assert (blend(a, b, floor) >= np.minimum(np.minimum(a, b), floor)).all()


def test_optical_densities_add() -> None:
    every = np.arange(256, dtype=np.uint8)
    a, b = (grid.ravel() for grid in np.meshgrid(every, every))
    exact = 255.0 * (a / 255.0) * (b / 255.0)
    np.testing.assert_allclose(blend(a, b, 0), exact, atol=0.5)
