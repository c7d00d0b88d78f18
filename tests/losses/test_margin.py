"""The margin map: its value, its continuation, its slope."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supcam.losses.margin import margin_map
from tests.losses.loops import looped_margin

MARGINS = (0.1, 0.3, 0.5, 0.7, 1.2, 1.5)


@pytest.mark.parametrize("margin", MARGINS)
def test_equals_the_cosine_of_the_widened_angle(margin: float) -> None:
    cosines = torch.linspace(-0.999, 0.999, 401, dtype=torch.float64)
    expected = torch.tensor([looped_margin(float(c), margin) for c in cosines], dtype=torch.float64)
    torch.testing.assert_close(margin_map(cosines, margin), expected, rtol=0, atol=1e-12)


def test_no_margin_returns_the_very_input() -> None:
    cosines = torch.linspace(-1.2, 1.2, 7)
    assert margin_map(cosines, 0.0) is cosines


@given(st.floats(0.01, 1.57), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_rises_with_the_cosine(margin: float, first: float, second: float) -> None:
    low, high = sorted((first, second))
    mapped = margin_map(torch.tensor([low, high], dtype=torch.float64), margin)
    # 1e-3: the floor under the root is felt within 5e-8 of the poles, where it bends the curve by its own square root.
    assert mapped[0] <= mapped[1] + 1e-3 * (high - low < 1e-6) + 1e-12


@pytest.mark.parametrize("margin", MARGINS)
def test_is_continuous_where_the_angle_would_leave_pi(margin: float) -> None:
    edge = -math.cos(margin)
    left, right = margin_map(torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64), margin)
    assert abs(float(right - left)) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", MARGINS)
def test_value_and_gradient_are_finite_at_and_beyond_the_poles(margin: float, dtype: torch.dtype) -> None:
    cosines = torch.tensor([-1.0, 1.0, 1.0 + 1e-6, -1.0 - 1e-6], dtype=dtype, requires_grad=True)
    mapped = margin_map(cosines, margin)
    (gradient,) = torch.autograd.grad(mapped.sum(), cosines)
    assert torch.isfinite(mapped).all()
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()


@pytest.mark.parametrize("margin", [-0.1, math.pi / 2, 2.0, math.nan])
def test_refuses_a_margin_out_of_range(margin: float) -> None:
    with pytest.raises(ValueError, match=r"allowed are 0 to below pi/2 radians"):
        margin_map(torch.zeros(2), margin)


@pytest.mark.parametrize("margin", MARGINS)
def test_still_rises_at_the_very_angle_that_would_leave_pi(margin: float) -> None:
    """There cos(theta + margin) is flat: a pair that lies just so would never be pulled together."""
    cosine = torch.tensor([-math.cos(margin)], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(margin_map(cosine, margin), cosine)
    assert float(gradient) == 1.0
