"""How placed bodies meet, on bars whose crossings, stubs and gaps are known."""

from dataclasses import replace
from math import cos, radians, sin

import numpy as np
import pytest

from supcam.composition.contact import Fault, axis_of, meeting
from supcam.composition.masks import Body, core_width, find_body
from supcam.settings import ComposeSettings

LIMITS = ComposeSettings()
SIDE = 120
CENTRE = SIDE // 2
TOUCH, OVERLAP = 1, 2


def bar(
    length: float = 80, *, centre: tuple[float, float] = (CENTRE, CENTRE), angle: float = 0.0, width: float = 8
) -> np.ndarray:
    """A dark bar of ``length`` by ``width`` pixels at ``angle`` degrees with a rim of two grey pixels, on white."""
    y, x = np.mgrid[:SIDE, :SIDE] - np.array(centre)[:, None, None]
    along = np.abs(x * cos(radians(angle)) + y * sin(radians(angle)))
    across = np.abs(y * cos(radians(angle)) - x * sin(radians(angle)))
    beyond = np.maximum(along - length / 2, across - width / 2)
    return np.where(beyond < 0, 120, np.where(beyond < 2, 235, 255)).astype(np.uint8)


def body(*images: np.ndarray, single: bool = True) -> Body:
    found = find_body(np.minimum.reduce(images), LIMITS)
    assert found is not None
    return replace(found, width=core_width(found.core), single=single)


def met(first: Body, second: Body, *, strict: bool = False, limits: ComposeSettings = LIMITS) -> int | Fault:
    """How two bodies meet where they were drawn."""
    offset = (second.corner[0] - first.corner[0], second.corner[1] - first.corner[1])
    return meeting(first, second, offset, limits, strict=strict)


@pytest.mark.parametrize(("first", "second"), [(0.0, 90.0), (10.0, 60.0), (85.0, 120.0), (170.0, 20.0)])
def test_bars_at_a_wide_angle_cross(first: float, second: float) -> None:
    assert met(body(bar(angle=first)), body(bar(angle=second))) == OVERLAP


@pytest.mark.parametrize(("first", "second"), [(80.0, 96.0), (172.0, 8.0), (8.0, 172.0)])
def test_bars_at_a_narrow_angle_do_not_cross(first: float, second: float) -> None:
    """Also where their axes lie on either side of the horizontal, as 172 and 8 degrees do."""
    far = ComposeSettings(contact_reach=60)  # else the haloes that run beside one another are what is refused
    assert met(body(bar(angle=first)), body(bar(angle=second)), limits=far) is Fault.NOT_CROSSING


@pytest.mark.parametrize(("stub", "expected"), [(5, Fault.NOT_CROSSING), (16, OVERLAP)])
def test_a_stub_beside_a_crossing_is_not_an_arm(stub: int, expected: int | Fault) -> None:
    """The upright bar ends inside the level one, so only the level one can be split: ``stub`` of its 96 pixels."""
    level = body(bar(96))
    right = CENTRE + 48
    upright = body(bar(50, centre=(CENTRE + 21, right - stub - 4), angle=90.0))
    assert met(level, upright) == expected


def test_nothing_else_may_lie_near_a_crossing_that_must_bring_no_touch() -> None:
    upright = body(bar(50, centre=(CENTRE - 21, CENTRE), angle=90.0))
    alone = body(bar(80), single=False)
    # A further chromosome of the same source, out of the upright bar's reach but too near to know whose arm it is.
    neighbour = bar(40, centre=(CENTRE + 17, CENTRE))
    bridge = bar(10, centre=(CENTRE + 9, CENTRE - 18), angle=90.0, width=0.1)
    crowded = body(bar(80), neighbour, bridge, single=False)
    assert met(alone, upright, strict=True) == OVERLAP
    assert met(crowded, upright) == OVERLAP
    assert met(crowded, upright, strict=True) is Fault.SECOND_CONTACT
    # One of the two arms is as broad as two chromosomes side by side.
    doubled = body(bar(80), bar(20, centre=(CENTRE + 6, CENTRE + 20)), single=False)
    assert met(doubled, upright, strict=True) is Fault.SECOND_CONTACT


def test_haloes_that_meet_touch_and_those_that_barely_miss_graze() -> None:
    level = body(bar())
    faults = [met(level, body(bar(centre=(CENTRE + gap, CENTRE)))) for gap in (11, 13, 14)]
    assert faults == [TOUCH, Fault.GRAZE, Fault.APART]


@pytest.mark.parametrize("angle", [0.0, 20.0, 90.0, 137.0, 179.0])
def test_axis_of_a_line(angle: float) -> None:
    along = np.linspace(-10.0, 10.0, 41)
    measured = axis_of(along * sin(radians(angle)), along * cos(radians(angle)))
    assert min(abs(measured - angle), 180.0 - abs(measured - angle)) < 1e-6
