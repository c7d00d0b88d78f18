"""How many placed pairs really meet, by the checks of ``supcam.composition.contact``."""

from math import pi

import torch
from torch import Tensor

from supcam.composition.batched.masks import Bodies, bounds, components, count, sizes, spread, window, within
from supcam.composition.contact import BROAD, CLEAR, MIN_PART, NEAR_LEAST, NEAR_WIDTHS, Fault
from supcam.settings import ComposeSettings

FAULTS = tuple(Fault)
_GROWN, _NEAR, _CORE = 1, 2, 4  # bits of the planes that are moved together


def code(fault: Fault) -> int:
    """The negative number that stands for a fault."""
    return -1 - FAULTS.index(fault)


def meetings(first: Bodies, second: Bodies, offset: Tensor, settings: ComposeSettings, strict: Tensor) -> Tensor:
    """(N,) int64: relation bits of ``second`` at ``offset`` (N, 2) of ``first``'s frame, or the code of a fault.

    ``strict`` (N,) bool. The rules are those of ``supcam.composition.contact.meeting``.
    """
    grown = spread(first.halo)
    planes = grown * _GROWN + spread(spread(grown)) * _NEAR + first.core * _CORE
    seen = window(planes, offset, second.halo.shape[1], 0)
    contact = (seen & _GROWN > 0) & second.halo
    near = ((seen & _NEAR > 0) & second.halo).flatten(1).any(1)
    shared = (seen & _CORE > 0) & second.core
    found = torch.where(near, code(Fault.GRAZE), code(Fault.APART))
    found = torch.where(count(contact) >= settings.min_contact, 1, found)
    rows = shared.flatten(1).any(1).nonzero()[:, 0]
    if len(rows):
        found[rows] = _crossings(
            first.take(rows), second.take(rows), offset[rows], contact[rows], shared[rows], settings, strict[rows]
        )
    return found


def touches(first: Bodies, second: Bodies, offset: Tensor) -> Tensor:
    """Pixels (N, S, S), in the frame of ``second``, that ``supcam.composition.contact.touch_points`` names."""
    contact = window(spread(first.halo), offset, second.halo.shape[1], False) & second.halo
    shared = window(first.core, offset, second.halo.shape[1], False) & second.core
    return contact & ~shared.flatten(1).any(1)[:, None, None]


def _crossings(
    first: Bodies,
    second: Bodies,
    offset: Tensor,
    contact: Tensor,
    shared: Tensor,
    settings: ComposeSettings,
    strict: Tensor,
) -> Tensor:
    """What ``meetings`` says of pairs whose cores share pixels."""
    side = contact.shape[1]
    zones = components(contact)
    areas, cores = sizes(zones), sizes(zones, shared)
    least = settings.min_core_overlap_share * torch.minimum(first.core_area, second.core_area).double()
    touches = (areas > 0) & (cores == 0)
    overlaps = (cores > 0) & (cores >= least[:, None])
    graze = (areas > 0) & ~(touches | overlaps) | touches & (areas < settings.min_contact)
    found = touches.any(1).long() | overlaps.any(1).long() << 1
    found[graze.any(1)] = code(Fault.GRAZE)

    strict = strict & ~(first.single & second.single)
    reach = torch.where(strict, CLEAR, settings.contact_reach)[:, None]
    near = bounds(shared) + torch.cat((-reach, -reach, reach, reach), 1)
    crossing = overlaps.gather(1, zones.flatten(1).long()).view_as(contact)
    trails = (crossing & ~within(near, side)).flatten(1).any(1)
    found[(found > 0) & trails] = code(Fault.SECOND_CONTACT)
    rows = ((found > 0) & strict).nonzero()[:, 0]
    if len(rows):
        inside = window(shared[rows], -offset[rows], first.core.shape[1], 0)
        clear = _clear(first.take(rows), inside) & _clear(second.take(rows), shared[rows])
        found[rows] = torch.where(clear, found[rows], code(Fault.SECOND_CONTACT))
    label = torch.arange(overlaps.shape[1], device=zones.device)
    while True:
        zone = (overlaps * label).amax(1)
        rows = ((found > 0) & (zone > 0)).nonzero()[:, 0]
        if not len(rows):
            return found
        part = shared[rows] & (zones[rows] == zone[rows, None, None])
        reads = crosses(first.take(rows), second.take(rows), offset[rows], part, settings.min_angle)
        found[rows] = torch.where(reads, found[rows], code(Fault.NOT_CROSSING))
        overlaps[rows, zone[rows]] = False


def crosses(first: Bodies, second: Bodies, offset: Tensor, shared: Tensor, min_angle: float) -> Tensor:
    """(N,) bool: which shared cores (N, S, S), in the frame of ``second``, make a crossing or a T."""
    y, x, area = _sums(shared)[:3]
    centre = torch.stack((y, x), 1).double() / area[:, None]
    radius = 2.0 * area.double().sqrt()
    turn = (_axis(first.core, centre + offset, radius) - _axis(second.core, centre, radius)).abs()
    reads = torch.minimum(turn, 180.0 - turn) >= min_angle
    rows = reads.nonzero()[:, 0]
    reads[rows] = _splits(second.core[rows], shared[rows])
    rows = rows[~reads[rows]]
    reads[rows] = _splits(first.core[rows], window(shared[rows], -offset[rows], first.core.shape[1], 0))
    return reads


def _splits(core: Tensor, shared: Tensor) -> Tensor:
    """(N,) bool: whether a component of the core falls into two parts or more without the shared pixels."""
    left = core & ~shared
    parts, whole = components(left), components(core)
    part_areas, areas = sizes(parts), sizes(whole)
    met = sizes(whole, shared) > 0
    # The component that holds the first pixel of each part: label L lies at H * W - L.
    home = torch.nn.functional.pad(whole.flatten(1).flip(1), (1, 0)).long()
    large = (part_areas > 0) & (part_areas >= MIN_PART * areas.gather(1, home).double()) & met.gather(1, home)
    pieces = torch.zeros_like(areas).scatter_add_(1, home, large.long())
    return (pieces >= 2).any(1)


def _axis(core: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Direction (N,), degrees from 0 to 180, of each core within ``radius`` of ``centre`` (N, 2) of its frame."""
    step = torch.arange(core.shape[1], device=core.device)
    y, x = step - centre[:, :1], step - centre[:, 1:]
    near = core & (y[:, :, None] ** 2 + x[:, None, :] ** 2 <= (radius * radius)[:, None, None])
    y_sum, x_sum, area, yy, xx, xy = _sums(near)
    across = 2.0 * (area * xy - x_sum * y_sum).double()
    along = (area * xx - x_sum * x_sum - area * yy + y_sum * y_sum).double()
    return (0.5 * torch.atan2(across, along) * (180.0 / pi)).remainder(180.0)


def _sums(mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sums over the pixels of each mask of y, x, 1, y * y, x * x and x * y, (N,) int64."""
    step = torch.arange(mask.shape[1], device=mask.device)
    rows, columns = mask.sum(2), mask.sum(1)
    products = ((mask * step).sum(2) * step).sum(1)
    squares = step * step
    return (
        (rows * step).sum(1), (columns * step).sum(1), rows.sum(1),
        (rows * squares).sum(1), (columns * squares).sum(1), products,
    )  # fmt: skip


def _clear(body: Bodies, shared: Tensor) -> Tensor:
    """(N,) bool: whether near the shared core (in the body's frame) there are no more than one chromosome's arms."""
    reach = (NEAR_WIDTHS * body.width).clamp(min=NEAR_LEAST)
    away = _distance(shared, reach)
    arms = sizes(components(body.core & (away > 0) & (away <= reach[:, None, None])))
    broad = arms > (BROAD * reach * body.width)[:, None]
    return body.single | (((arms > 0).sum(1) <= 2) & ~broad.any(1))


def _distance(mask: Tensor, reach: Tensor) -> Tensor:
    """Distance (N, H, W) float64 of each pixel to the nearest of ``mask``, exact up to ``reach`` (N,), more beyond."""
    side = mask.shape[1]
    step = torch.arange(side, device=mask.device)
    before = step.where(mask, -2 * side).cummax(2).values
    after = step.where(mask, 3 * side).flip(2).cummin(2).values.flip(2)
    along = torch.minimum(step - before, after - step) ** 2
    nearest = along.clone()
    for rise in range(1, min(int(reach.max()) + 1, side)):
        below, above = nearest[:, rise:], nearest[:, :-rise]
        torch.minimum(below, along[:, :-rise] + rise * rise, out=below)
        torch.minimum(above, along[:, rise:] + rise * rise, out=above)
    return nearest.double().sqrt()
