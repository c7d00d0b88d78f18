"""How two placed bodies really meet: contact zones, their shared core, and whether an overlap reads as a crossing."""

from dataclasses import dataclass
from enum import StrEnum
from math import atan2, degrees

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from supcam.composition.masks import EIGHT, Body, Mask, Points, bounding_box
from supcam.serving.bodies import dilated
from supcam.settings import ComposeSettings

CLEAR = 4  # pixels around a shared core within which a strict crossing must end
NEAR_WIDTHS, NEAR_LEAST = 1.8, 18.0  # how near the crossing arms are counted: times the width; at least, pixels
# Times its width, at equal steps up to that distance: an arm with more core within them is more than one. The last is
# as low as a narrow chromosome allows, whose width is measured to the pixel: 6 of 7.
BROAD = (1.2, 1.2, 1.17)
MIN_PART = 0.1  # of a core: smaller pieces behind a crossing are slivers, not arms


class Fault(StrEnum):
    """Why a placement is refused; the names are the reasons that reports count."""

    APART = "apart"
    GRAZE = "graze"
    NOT_CROSSING = "not-crossing"
    SECOND_CONTACT = "second-contact"
    HIDDEN_TOUCH = "hidden-touch"


@dataclass(frozen=True)
class Window:
    """The rectangle in which two frames overlap: slices into the first and into the second frame."""

    first: tuple[slice, slice]
    second: tuple[slice, slice]


def window(first: tuple[int, ...], second: tuple[int, ...], offset: tuple[int, int]) -> Window:
    """Overlap of a frame of shape ``first`` with one of shape ``second`` whose corner lies at ``offset`` in it."""
    here, there = [], []
    for length, size, start in zip(first, second, offset, strict=True):
        low = max(start, 0)
        high = max(min(length, start + size), low)  # apart: an empty slice, not one that wraps around
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return Window((here[0], here[1]), (there[0], there[1]))


def meeting(
    first: Body, second: Body, offset: tuple[int, int], settings: ComposeSettings, *, strict: bool = False
) -> int | Fault:
    """Relation bits (touch 1, overlap 2, both 3) of ``second`` placed at ``offset``, or the fault that refuses it.

    Haloes closer than three pixels that do not meet are a graze. Every zone in which the haloes meet counts: one
    without shared core is a touch of at least ``min_contact`` pixels, one with shared core must share the least part
    of the smaller core and read as a crossing. Anything in between is doubtful to a reader and refused. ``strict`` is
    for overlaps that must not bring an unnoticed touch: with a source whose chromosomes are not known one by one,
    the crossing must then lie clear of everything else.
    """
    view = window(first.halo.shape, second.halo.shape, offset)
    contact = first.dilated[view.first] & second.halo[view.second]
    if not contact.any():
        return Fault.GRAZE if _near(first, second, view).any() else Fault.APART
    shared = first.core[view.first] & second.core[view.second]
    if not shared.any():
        return 1 if np.count_nonzero(contact) >= settings.min_contact else Fault.GRAZE
    zones, count = ndimage.label(contact, EIGHT)
    sizes = np.bincount(zones.ravel())[1:]
    cores = np.bincount(zones[shared], minlength=count + 1)[1:]
    # Zone by zone: two bodies that cross in one place may touch in another, and then are both.
    least = settings.min_core_overlap_share * min(first.core_area, second.core_area)
    touches, overlaps = cores == 0, cores >= least
    if not (touches | overlaps).all() or (sizes[touches] < settings.min_contact).any():
        return Fault.GRAZE
    if overlaps.any():
        if not touches.any() and _elsewhere(_near(first, second, view), zones):
            return Fault.GRAZE
        strict = strict and not (first.single and second.single)
        reach = CLEAR if strict else settings.contact_reach
        if _trails(np.append(False, overlaps)[zones], shared, reach):
            return Fault.SECOND_CONTACT
        if strict and not (_clear(first, view.first, shared) and _clear(second, view.second, shared)):
            return Fault.SECOND_CONTACT
        for zone in np.flatnonzero(overlaps) + 1:
            if not crosses(first, second, view, shared & (zones == zone), settings.min_angle):
                return Fault.NOT_CROSSING
    return int(touches.any()) | int(overlaps.any()) << 1


def touch_points(first: Body, second: Body, offset: tuple[int, int]) -> Points:
    """Pixels (K, 2) of ``first``'s frame in which two sources touch: where haloes meet, none if cores share a pixel.

    Of two that cross, a further zone of contact is mostly the edge of what lies below.
    """
    view = window(first.halo.shape, second.halo.shape, offset)
    contact = first.dilated[view.first] & second.halo[view.second]
    if (first.core[view.first] & second.core[view.second]).any():
        contact = np.zeros_like(contact)
    return np.add(np.argwhere(contact), (view.first[0].start, view.first[1].start))


def _near(first: Body, second: Body, view: Window) -> Mask:
    """Pixels of the second halo that are closer than three pixels to the first or meet it."""
    return dilated(dilated(first.dilated))[view.first] & second.halo[view.second]


def _elsewhere(near: Mask, zones: NDArray[np.integer]) -> bool:
    """Whether some place where haloes are near holds no zone of contact: they come close there without meeting."""
    places, count = ndimage.label(near, EIGHT)
    return bool(np.unique(places[zones > 0]).size < count)


def _trails(contact: Mask, shared: Mask, reach: int) -> bool:
    """Whether haloes that overlap go on meeting far from the shared core: lying alongside, a second contact."""
    rows, columns = bounding_box(shared)
    near = contact[max(rows.start - reach, 0) : rows.stop + reach, max(columns.start - reach, 0) : columns.stop + reach]
    return bool(np.count_nonzero(near) < np.count_nonzero(contact))


def _clear(body: Body, view: tuple[slice, slice], shared: Mask) -> bool:
    """Whether near the shared core there are no more than the two arms of one chromosome, neither of them too broad."""
    if body.single:
        return True
    reach = max(NEAR_WIDTHS * body.width, NEAR_LEAST)
    rows, columns = np.nonzero(shared)
    rows, columns = rows + view[0].start, columns + view[1].start
    rim = int(reach) + 1
    box = np.s_[max(rows.min() - rim, 0) : rows.max() + rim + 1, max(columns.min() - rim, 0) : columns.max() + rim + 1]
    crossing = np.zeros(body.core.shape, dtype=bool)
    crossing[rows, columns] = True
    away = ndimage.distance_transform_edt(~crossing[box])
    around = body.core[box] & (away > 0)
    # At several distances: close by, an arm a little farther is missed; far out, the arms of a small cluster have ended
    # and however many they are, their core is no more than two long ones may have.
    for step, broad in enumerate(BROAD, start=1):
        near = reach * step / len(BROAD)
        arms, count = ndimage.label(around & (away <= near), EIGHT)
        sizes = np.bincount(arms.ravel())[1:]
        if int(count) > 2 or (sizes > broad * body.width * near).any():
            return False
    return True


def crosses(first: Body, second: Body, view: Window, shared: Mask, min_angle: float) -> bool:
    """Whether the shared core (on the window) makes a crossing or a T, not one longer chromosome.

    Taking it away must split at least one core into two parts of a tenth or more each, and the axes of both near
    the crossing must differ by ``min_angle`` degrees or more.
    """
    rows, columns = np.nonzero(shared)
    # Near the crossing only: far from it chromosomes bend, and a whole one's axis says little.
    centre = (float(rows.mean()), float(columns.mean()))
    radius = 2.0 * float(np.sqrt(rows.size))
    turn = abs(_axis(first.core, view.first, centre, radius) - _axis(second.core, view.second, centre, radius))
    if min(turn, 180.0 - turn) < min_angle:  # axes have no direction: 178 and 2 degrees differ by 4
        return False
    return _splits(second, view.second, shared) or _splits(first, view.first, shared)


def _splits(body: Body, view: tuple[slice, slice], shared: Mask) -> bool:
    """Whether a component of the core falls into two parts of some size without the shared pixels."""
    rest = body.core.copy()
    rest[view] &= ~shared
    parts, count = ndimage.label(rest, EIGHT)
    if count < 2:
        return False
    # By component: bands can part a core already, and such parts lie beside no crossing.
    components, _ = body.components
    for component in np.unique(components[view][shared]):
        inside = components == component
        sizes = np.bincount(parts[inside & rest])[1:]
        if np.count_nonzero(sizes >= MIN_PART * np.count_nonzero(inside)) >= 2:
            return True
    return False


def _axis(core: Mask, view: tuple[slice, slice], centre: tuple[float, float], radius: float) -> float:
    """Direction, in degrees from 0 to 180, of the core within ``radius`` of a point of the window."""
    row, column = centre[0] + view[0].start, centre[1] + view[1].start
    top, left = max(int(row - radius), 0), max(int(column - radius), 0)
    patch = core[top : int(row + radius) + 2, left : int(column + radius) + 2]
    y, x = np.nonzero(patch)
    y, x = y + (top - row), x + (left - column)
    near = y * y + x * x <= radius * radius
    return axis_of(y[near], x[near])


def axis_of(y: NDArray[np.floating], x: NDArray[np.floating]) -> float:
    """Direction of the principal axis of points, in degrees from 0 to 180."""
    y, x = y - y.sum() / y.size, x - x.sum() / x.size
    return degrees(0.5 * atan2(2.0 * float(x @ y), float(x @ x) - float(y @ y))) % 180.0
