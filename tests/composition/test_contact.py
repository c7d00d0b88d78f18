"""How placed bodies meet, on bars whose crossings, stubs and gaps are known."""

from collections.abc import Callable
from dataclasses import replace
from math import cos, radians, sin

import numpy as np
import pytest

from supcam.composition.contact import Fault, Window, axis_of, crosses, meeting, touch_points, window
from supcam.composition.masks import Body, core_width, find_body
from supcam.serving.bodies import dilated
from supcam.settings import ComposeSettings

LIMITS = ComposeSettings()
SIDE = 120
CENTRE = SIDE // 2
TOUCH, OVERLAP = 1, 2


def bar(
    length: float = 80,
    *,
    centre: tuple[float, float] = (CENTRE, CENTRE),
    angle: float = 0.0,
    width: float = 8,
    rim: float = 2,
) -> np.ndarray:
    """A dark bar of ``length`` by ``width`` pixels at ``angle`` degrees with a rim of grey pixels, on white."""
    y, x = np.mgrid[:SIDE, :SIDE] - np.array(centre)[:, None, None]
    along = np.abs(x * cos(radians(angle)) + y * sin(radians(angle)))
    across = np.abs(y * cos(radians(angle)) - x * sin(radians(angle)))
    beyond = np.maximum(along - length / 2, across - width / 2)
    return np.where(beyond < 0, 120, np.where(beyond < rim, 235, 255)).astype(np.uint8)


def body(*images: np.ndarray, single: bool = True) -> Body:
    found = find_body(np.minimum.reduce(images), LIMITS)
    assert found is not None
    return replace(found, width=core_width(found.core), single=single)


def offset_of(first: Body, second: Body) -> tuple[int, int]:
    """Where the second frame lies in the first when both stay where they were drawn."""
    return second.corner[0] - first.corner[0], second.corner[1] - first.corner[1]


def met(first: Body, second: Body, *, strict: bool = False, limits: ComposeSettings = LIMITS) -> int | Fault:
    """How two bodies meet where they were drawn."""
    return meeting(first, second, offset_of(first, second), limits, strict=strict)


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


@pytest.mark.parametrize("turn", [np.array, np.flipud, np.transpose])
def test_nothing_else_may_lie_near_a_crossing_that_must_bring_no_touch(turn: Callable[..., np.ndarray]) -> None:
    def turned(*images: np.ndarray, single: bool = True) -> Body:
        return body(*map(turn, images), single=single)

    upright = turned(bar(50, centre=(CENTRE - 21, CENTRE), angle=90.0))
    alone = turned(bar(80), single=False)
    # A further chromosome of the same source, out of the upright bar's reach but too near to know whose arm it is.
    neighbour = bar(40, centre=(CENTRE + 17, CENTRE))
    bridge = bar(10, centre=(CENTRE + 9, CENTRE - 18), angle=90.0, width=0.1)
    crowded = turned(bar(80), neighbour, bridge, single=False)
    assert met(alone, upright, strict=True) == OVERLAP
    assert met(crowded, upright) == OVERLAP
    assert met(crowded, upright, strict=True) is Fault.SECOND_CONTACT
    assert met(upright, alone, strict=True) == OVERLAP
    assert met(upright, crowded, strict=True) is Fault.SECOND_CONTACT
    # One of the two arms is as broad as two chromosomes side by side.
    doubled = turned(bar(80), bar(20, centre=(CENTRE + 6, CENTRE + 20)), single=False)
    assert met(doubled, upright, strict=True) is Fault.SECOND_CONTACT


def test_haloes_that_meet_touch_and_those_that_barely_miss_graze() -> None:
    level = body(bar())
    faults = [met(level, body(bar(centre=(CENTRE + gap, CENTRE)))) for gap in (11, 13, 14)]
    assert faults == [TOUCH, Fault.GRAZE, Fault.APART]


@pytest.mark.parametrize("angle", [0.0, 20.0, 90.0, 137.0, 179.0])
def test_axis_of_a_line(angle: float) -> None:
    along = np.linspace(-10.0, 10.0, 41)
    measured = axis_of(along * sin(radians(angle)) + 30.0, along * cos(radians(angle)) - 20.0)
    assert min(abs(measured - angle), 180.0 - abs(measured - angle)) < 1e-6


def pixels(mask: np.ndarray, corner: tuple[int, int]) -> set[tuple[int, int]]:
    """Pixels of a mask as (row, column) on the canvas."""
    return {(int(row) + corner[0], int(column) + corner[1]) for row, column in np.argwhere(mask)}


def direction(points: list[tuple[int, int]]) -> float:
    """Direction of the principal axis in degrees, from the eigenvectors of the covariance."""
    _, vectors = np.linalg.eigh(np.cov(np.array(points, dtype=float).T))
    return float(np.degrees(np.arctan2(vectors[0, 1], vectors[1, 1])))


@pytest.mark.parametrize(
    ("level", "upright"),
    [
        (bar(angle=5.0), bar(centre=(CENTRE + 3, CENTRE - 5), angle=64.0)),
        (bar(60, angle=170.0), bar(50, centre=(CENTRE + 6, CENTRE + 10), angle=70.0, width=11)),
        (np.minimum(bar(90), bar(40, centre=(CENTRE + 14, CENTRE + 44), angle=60.0)), bar(30, angle=95.0)),
        # Cut by the upper and by the left edge of the picture.
        (bar(70, centre=(3, CENTRE), angle=4.0), bar(40, centre=(12, CENTRE + 5), angle=75.0)),
        (bar(70, centre=(3, CENTRE), angle=4.0).T, bar(40, centre=(12, CENTRE + 5), angle=75.0).T),
        # They share 7 by 7 pixels: pixels at a distance of 14 are near.
        (np.minimum(bar(), bar(12, centre=(CENTRE + 7, CENTRE + 9), angle=45.0, width=3)), bar().T),
    ],
)
def test_the_angle_of_a_crossing_is_that_of_the_axes_near_it(level: np.ndarray, upright: np.ndarray) -> None:
    """Near: within twice the root of the shared area, around its centre."""
    first, second = body(level), body(upright)
    cores = [pixels(one.core, one.corner) for one in (first, second)]
    shared = cores[0] & cores[1]
    centre, radius = np.mean(list(shared), axis=0), 2.0 * len(shared) ** 0.5
    axes = [direction([point for point in core if np.hypot(*(point - centre)) <= radius]) for core in cores]
    turn = abs(axes[0] - axes[1]) % 180.0
    turn = min(turn, 180.0 - turn)
    view = window(first.halo.shape, second.halo.shape, offset_of(first, second))
    common = first.core[view.first] & second.core[view.second]
    assert crosses(first, second, view, common, turn - 1e-6)
    assert not crosses(first, second, view, common, turn + 1e-6)


def test_a_crossing_with_a_touch_elsewhere_is_both() -> None:
    """The upright bar is hooked: its tip comes back to the level bar."""
    foot = bar(40, centre=(CENTRE + 25, CENTRE + 15))
    tip = bar(18, centre=(CENTRE + 16, CENTRE + 30), angle=90.0)
    hook = body(bar(60, centre=(CENTRE - 2, CENTRE), angle=90.0), foot, tip)
    level = body(bar())
    assert met(level, hook) == TOUCH | OVERLAP
    there = {point for point in pixels(level.dilated, level.corner) if point[1] > CENTRE + 15}
    least = len(there & pixels(hook.halo, hook.corner))
    assert met(level, hook, limits=ComposeSettings(min_contact=least)) == TOUCH | OVERLAP
    assert met(level, hook, limits=ComposeSettings(min_contact=least + 1)) is Fault.GRAZE


@pytest.mark.parametrize(("rim", "expected"), [(4, OVERLAP), (5, Fault.SECOND_CONTACT)])
def test_a_crossing_that_must_bring_no_touch_ends_within_four_pixels(rim: int, expected: int | Fault) -> None:
    level, upright = body(bar(), single=False), body(bar(50, angle=90.0, rim=rim))
    assert meeting(level, upright, offset_of(level, upright), LIMITS) == OVERLAP
    assert met(level, upright, strict=True) == expected


@pytest.mark.parametrize(("gap", "expected"), [(22, Fault.SECOND_CONTACT), (27, OVERLAP)])
def test_of_a_broad_chromosome_more_counts_as_near(gap: int, expected: int | Fault) -> None:
    """Of one 14 pixels wide, 25 pixels around the crossing."""
    upright = body(bar(50, centre=(CENTRE - 16, CENTRE), angle=90.0))
    neighbour = bar(60, centre=(CENTRE + 7 + gap + 4, CENTRE - 12))
    bridge = bar(gap, centre=(CENTRE + 7 + gap / 2, CENTRE - 36), angle=90.0, width=0.1)
    crowded = replace(body(bar(80, width=14), neighbour, bridge, single=False), width=14.0)
    assert met(crowded, upright) == OVERLAP
    assert met(crowded, upright, strict=True) == expected


def test_two_sources_touch_where_their_haloes_meet() -> None:
    level, upright = body(bar()), body(bar(30, centre=(CENTRE + 22, CENTRE + 5), angle=90.0))
    around = {(row + y, column + x) for row, column in pixels(level.halo, level.corner) for y, x in np.ndindex(3, 3)}
    grown = {(row - 1, column - 1) for row, column in around}
    points = touch_points(level, upright, offset_of(level, upright))
    found = {(int(row) + level.corner[0], int(column) + level.corner[1]) for row, column in points}
    assert found == grown & pixels(upright.halo, upright.corner) != set()


def test_two_sources_that_cross_touch_nowhere() -> None:
    level, upright = body(bar()), body(bar(angle=90.0))
    assert touch_points(level, upright, offset_of(level, upright)).shape == (0, 2)


def test_reports_count_faults_by_these_names() -> None:
    assert [str(fault) for fault in Fault] == ["apart", "graze", "not-crossing", "second-contact", "hidden-touch"]


@pytest.mark.parametrize(("strict", "expected"), [(False, Fault.NOT_CROSSING), (True, Fault.SECOND_CONTACT)])
def test_a_bar_that_ends_a_pixel_before_the_far_side_of_another_parts_it_not(strict: bool, expected: Fault) -> None:
    """Its halo reaches beyond; and where it must bring no touch, what goes past its end makes one broad arm."""
    level, upright = body(bar(), single=not strict), body(bar(50, centre=(CENTRE - 22, CENTRE), angle=90.0))
    assert met(level, upright, strict=strict) is expected


def turned_back(image: np.ndarray) -> np.ndarray:
    return np.transpose(np.flipud(image))


@pytest.mark.parametrize("turn", [np.array, np.flipud, np.transpose, turned_back])
@pytest.mark.parametrize(("distance", "expected"), [(18, Fault.SECOND_CONTACT), (19, OVERLAP)])
def test_near_a_crossing_is_within_eighteen_pixels(
    turn: Callable[..., np.ndarray], distance: int, expected: int | Fault
) -> None:
    upright = body(turn(bar(50, centre=(CENTRE - 21, CENTRE), angle=90.0)))
    neighbour = bar(40, centre=(CENTRE + 6 + distance, CENTRE - 15))
    bridge = bar(17, centre=(CENTRE + 12.5, CENTRE - 28), angle=90.0, width=0.1)
    crowded = body(turn(bar()), turn(neighbour), turn(bridge), single=False)
    assert met(crowded, upright, strict=True) == expected


def test_of_a_small_cluster_too_much_lies_near_a_crossing_although_its_arms_end_farther_out() -> None:
    """Two bars of 24 pixels side by side: within 18 pixels of the crossing no more core than two arms may have."""
    upright = body(bar(50, angle=90.0))
    doubled = body(bar(24), bar(24, centre=(CENTRE + 7, CENTRE)), single=False)
    assert met(replace(doubled, width=7.0), upright) == OVERLAP
    assert met(replace(doubled, width=7.0), upright, strict=True) is Fault.SECOND_CONTACT


@pytest.mark.parametrize(("gap", "expected"), [(-1, TOUCH | OVERLAP), (0, Fault.GRAZE), (1, Fault.GRAZE), (2, OVERLAP)])
def test_a_crossing_with_haloes_that_barely_miss_elsewhere_is_a_graze(gap: int, expected: int | Fault) -> None:
    """The upright bar is hooked: its tip comes back to the level bar; at ``gap`` -1 the haloes meet."""
    foot = bar(40, centre=(CENTRE + 25, CENTRE + 15))
    tip = bar(16, centre=(CENTRE + 16 + gap, CENTRE + 30), angle=90.0, width=6)
    hook = body(bar(60, centre=(CENTRE - 2, CENTRE), angle=90.0), foot, tip)
    assert met(body(bar()), hook) == expected


def test_an_arm_that_goes_on_over_a_corner_is_one_arm() -> None:
    level = bar(54, centre=(CENTRE, CENTRE - 16))
    rest = bar(
        20, centre=(CENTRE + 7, CENTRE + 20)
    )  # its upper left pixel follows the lower right one of the level bar
    assert met(body(level, rest, single=False), body(bar(50, angle=90.0)), strict=True) == OVERLAP


def square_crossing() -> tuple[Body, Body, Window, np.ndarray]:
    """A level bar of 80 by 8 core pixels and an upright one, what they share on their window, the window."""
    level, upright = (body(bar(centre=(CENTRE - 0.5, CENTRE - 0.5), angle=angle, rim=3)) for angle in (0.0, 90.0))
    view = window(level.halo.shape, upright.halo.shape, offset_of(level, upright))
    return level, upright, view, level.core[view.first] & upright.core[view.second]


def test_parts_that_meet_at_corners_are_one_part() -> None:
    level, upright, view, shared = square_crossing()
    rows, columns = np.nonzero(shared)
    assert shared[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all() and np.ptp(rows) == 7
    assert crosses(level, upright, view, shared, 80.0)
    shared[range(rows.min(), rows.max() + 1), range(columns.min(), columns.max() + 1)] = False
    assert not crosses(level, upright, view, shared, 80.0)


@pytest.mark.parametrize(("stub", "expected"), [(7, False), (8, True)])
def test_a_part_of_a_tenth_of_the_core_is_an_arm(stub: int, expected: bool) -> None:
    """Of the level bar's 80 columns, where the upright bar ends inside it."""
    level = body(bar(centre=(CENTRE - 0.5, CENTRE - 0.5)))
    upright = body(bar(42, centre=(CENTRE - 17.5, CENTRE + 35.5 - stub), angle=90.0))
    view = window(level.halo.shape, upright.halo.shape, offset_of(level, upright))
    shared = level.core[view.first] & upright.core[view.second]
    assert crosses(level, upright, view, shared, 25.0) is expected


def test_the_least_angle_is_enough() -> None:
    level, upright, view, shared = square_crossing()
    assert crosses(level, upright, view, shared, 90.0)


def test_the_least_contact_is_enough_for_a_touch() -> None:
    level, upright = body(bar()), body(bar(30, centre=(CENTRE + 22, CENTRE + 5), angle=90.0))
    least = len(touch_points(level, upright, offset_of(level, upright)))
    assert met(level, upright, limits=ComposeSettings(min_contact=least)) == TOUCH
    assert met(level, upright, limits=ComposeSettings(min_contact=least + 1)) is Fault.GRAZE


@pytest.mark.parametrize(("share", "expected"), [(0.1, OVERLAP), (0.101, Fault.GRAZE)])
def test_the_least_part_of_the_smaller_core_is_enough_for_an_overlap(share: float, expected: int | Fault) -> None:
    """They share 64 of 640 pixels; less than the least part is doubtful."""
    level, upright, _, _ = square_crossing()
    assert met(level, upright, limits=ComposeSettings(min_core_overlap_share=share)) == expected


def test_contact_that_goes_on_over_a_corner_is_one_zone() -> None:
    level, upright, view, _ = square_crossing()
    rows, columns = np.nonzero(level.dilated[view.first] & upright.halo[view.second])
    row, column = view.second[0].start + rows.max(), view.second[1].start + columns.max()
    halo = upright.halo.copy()
    halo[row, column], halo[row, column + 1] = False, True
    assert met(level, replace(upright, halo=halo)) == OVERLAP


@pytest.mark.parametrize("turn", [np.array, np.transpose])
def test_a_crossing_may_lie_at_the_edge_of_the_picture(turn: Callable[..., np.ndarray]) -> None:
    level, upright = bar(70, centre=(3, CENTRE)), bar(50, centre=(21, CENTRE), angle=90.0)
    assert met(body(turn(level)), body(turn(upright))) == OVERLAP


@pytest.mark.parametrize("turn", [np.array, np.transpose])
def test_the_first_pixels_of_the_picture_count_as_near_a_crossing(turn: Callable[..., np.ndarray]) -> None:
    level, upright = bar(centre=(21, CENTRE)), body(turn(bar(50, centre=(42, CENTRE), angle=90.0)))
    neighbour = bar(40, centre=(-3, CENTRE - 15))  # one row of it, 18 pixels from the crossing
    bridge = bar(19, centre=(8.5, CENTRE - 28), angle=90.0, width=0.1)
    assert met(body(turn(level), turn(bridge), single=False), upright, strict=True) == OVERLAP
    crowded = body(turn(level), turn(bridge), turn(neighbour), single=False)
    assert met(crowded, upright, strict=True) is Fault.SECOND_CONTACT


@pytest.mark.parametrize(
    ("length", "width", "expected"),
    [(32, 5.0, OVERLAP), (32, 4.99, Fault.SECOND_CONTACT), (80, 5.13, OVERLAP), (80, 5.12, Fault.SECOND_CONTACT)],
)
def test_an_arm_may_have_a_little_more_core_than_its_width_says(
    length: int, width: float, expected: int | Fault
) -> None:
    """Six pixels high: within 6 and 12 of the crossing a fifth more, within 18 no more than 1.17 times as much."""
    level = body(bar(length, centre=(CENTRE - 0.5, CENTRE - 0.5), width=6), single=False)
    upright = body(bar(centre=(CENTRE - 0.5, CENTRE - 0.5), angle=90.0))
    assert met(replace(level, width=width), upright, strict=True) == expected


@pytest.mark.parametrize(
    ("columns", "height", "expected"),
    [
        ((11, 12), 12, OVERLAP),
        ((9, 12), 12, Fault.SECOND_CONTACT),
        ((3, 5), 8, OVERLAP),
        ((2, 5), 8, Fault.SECOND_CONTACT),
    ],
)
def test_an_arm_that_is_broad_in_between_is_more_than_one(
    columns: tuple[int, int], height: int, expected: int | Fault
) -> None:
    """An arm 6 pixels high, and ``height`` pixels in the columns from the crossing: 6 columns may have 43, 12 86."""
    level = bar(32, centre=(CENTRE - 0.5, CENTRE - 0.5), width=6)
    middle = (CENTRE - 0.5, CENTRE + 3 + sum(columns) / 2)
    knob = bar(columns[1] - columns[0] + 1, centre=middle, width=height)
    upright = body(bar(centre=(CENTRE - 0.5, CENTRE - 0.5), angle=90.0))
    assert met(replace(body(level, knob, single=False), width=6.0), upright, strict=True) == expected


def test_two_crossings_are_not_a_graze() -> None:
    """Two uprights with a foot: haloes come near where they cross, and nowhere else."""
    uprights = [bar(50, centre=(CENTRE, CENTRE + side), angle=90.0) for side in (-16, 16)]
    fork = body(*uprights, bar(40, centre=(CENTRE + 25, CENTRE)))
    assert met(body(bar()), fork) == OVERLAP


def test_haloes_that_come_near_over_a_corner_come_near_in_one_place() -> None:
    level, upright, view, _ = square_crossing()
    near = dilated(dilated(level.dilated))[view.first] & upright.halo[view.second]
    rows, columns = np.nonzero(near)
    row, column = view.second[0].start + rows.max(), view.second[1].start + columns.max()
    halo = upright.halo.copy()
    halo[row, column], halo[row, column + 1] = False, True
    assert met(level, replace(upright, halo=halo)) == OVERLAP


def test_a_core_that_a_band_parts_is_not_split_by_a_bar_elsewhere() -> None:
    level, upright = body(bar()), body(bar(50, centre=(CENTRE - 22, CENTRE), angle=90.0))
    core = level.core.copy()
    core[:, CENTRE + 25 - level.corner[1]] = False
    assert met(replace(level, core=core), upright) is Fault.NOT_CROSSING
