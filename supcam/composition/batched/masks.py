"""Halo and core masks of many warped sources at once, and the batched operations on masks that they need."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from supcam.composition.masks import RIM, WHITE
from supcam.settings import ComposeSettings

_JUMPS = 2  # pointer jumps for each step to the neighbours
_FLOOD = 4  # steps of a flood between two looks at whether it has ended


@dataclass(frozen=True)
class Bodies:
    """Many warped sources, each on the first rows and columns of a square frame of ``side`` pixels.

    The fields are those of ``supcam.composition.masks.Body``, with a first dimension N: ``image``, ``tail`` uint8 and
    ``halo``, ``core`` bool (N, side, side); ``halo_area``, ``core_area`` int64, ``width`` float64, ``single`` and
    ``cut`` bool (N,). ``box`` (N, 4) int64 is the halo's box with its rim: top, left, bottom, right.
    """

    image: Tensor
    tail: Tensor
    halo: Tensor
    core: Tensor
    halo_area: Tensor
    core_area: Tensor
    width: Tensor
    single: Tensor
    cut: Tensor
    box: Tensor

    def take(self, rows: Tensor | slice) -> "Bodies":
        """The bodies of these rows."""
        return Bodies(*(getattr(self, each.name)[rows] for each in fields(self)))

    def put(self, rows: Tensor, others: "Bodies") -> None:
        """Write other bodies over these rows."""
        for each in fields(self):
            getattr(self, each.name)[rows] = getattr(others, each.name)


def find_bodies(
    image: Tensor, tail: Tensor, frames: Tensor, width: Tensor, single: Tensor, settings: ComposeSettings
) -> Bodies:
    """Masks as ``supcam.composition.masks.find_body`` finds them in ``image`` (N, side, side) uint8."""
    halo = largest_component(image < settings.halo_level)
    box = bounds(halo)
    box[:, :2] = (box[:, :2] - RIM).clamp(min=0)
    box[:, 2:] = torch.minimum(box[:, 2:] + RIM, frames)
    kept = spread(halo) & (halo | (image >= settings.halo_level))
    image = image.where(kept, WHITE)
    core = core_masks(image, halo, settings)
    area = count(halo)
    cut = count((image < settings.core_level) & halo) > settings.max_core_share * area
    tail = tail.where(within(box, image.shape[1]), WHITE)
    return Bodies(image, tail, halo, core, area, count(core), width, single, cut, box)


def core_masks(image: Tensor, halo: Tensor, settings: ComposeSettings) -> Tensor:
    """Cores (N, H, W) as ``supcam.composition.masks.core_mask`` finds them."""
    area = count(halo)
    rank = torch.minimum((settings.max_core_share * area.double()).long(), area - 1)
    greys = torch.zeros((len(image), WHITE + 2), dtype=torch.int64, device=image.device)
    inside = image.long().where(halo, WHITE + 1).flatten(1)
    greys.scatter_add_(1, inside, torch.ones_like(inside))
    level = (greys[:, : WHITE + 1].cumsum(1) <= rank[:, None]).sum(1).clamp(max=settings.core_level)
    core = (image < level[:, None, None]) & halo
    return ~flooded(~halo, ~core)


def components(mask: Tensor) -> Tensor:
    """8-connected components of ``mask`` (N, H, W): labels int32, 0 outside.

    A label is the number of pixels from the component's first one (row by row) to the last of the frame, so that
    ``H * W - label`` is where its first pixel lies and the first component has the highest label.
    """
    height, width = mask.shape[1:]
    size = height * width
    first = size - torch.arange(size, dtype=torch.int32, device=mask.device).view(height, width)
    labels = torch.where(mask, first, 0)
    while True:
        found = spread(labels).where(mask, 0)
        for _ in range(_JUMPS):
            # Each pixel looks up the label of the pixel that its own label names.
            flat = found.flatten(1)
            named = flat.gather(1, (size - flat).clamp(max=size - 1).long()).view_as(found)
            found = torch.maximum(found, named.where(mask, 0))
        if torch.equal(found, labels):
            return labels
        labels = found


def sizes(labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """(N, H * W + 1) int64: pixels of each label, of those in ``mask`` where one is given; 0 for label 0."""
    flat = (labels if mask is None else labels.where(mask, 0)).flatten(1).long()
    counts = torch.zeros((len(flat), flat.shape[1] + 1), dtype=torch.int64, device=labels.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    counts[:, 0] = 0
    return counts


def largest_component(mask: Tensor) -> Tensor:
    """Largest 8-connected component of each mask (N, H, W); the first one when two are equally large."""
    labels = components(mask)
    counts = sizes(labels)
    order = counts * counts.shape[1] + torch.arange(counts.shape[1], device=mask.device)
    return (labels == order.argmax(1)[:, None, None]) & mask


def flooded(seeds: Tensor, passable: Tensor) -> Tensor:
    """What water reaches from ``seeds`` through ``passable`` (N, H, W) along rows and columns, seeds included."""
    reached = seeds & passable
    while True:
        found = reached
        for _ in range(_FLOOD):
            found = (_spread_along(found, 1) | _spread_along(found, 2)) & passable
        if torch.equal(found, reached):
            return reached
        reached = found


def spread(values: Tensor) -> Tensor:
    """Highest of each pixel and its eight neighbours; a mask (N, H, W) grown by a pixel."""
    return _spread_along(_spread_along(values, 1), 2)


def _spread_along(values: Tensor, axis: int) -> Tensor:
    found = values.clone()
    length = values.shape[axis] - 1
    after, before = found.narrow(axis, 1, length), found.narrow(axis, 0, length)
    torch.maximum(after, values.narrow(axis, 0, length), out=after)
    torch.maximum(before, values.narrow(axis, 1, length), out=before)
    return found


def window(planes: Tensor, corner: Tensor, side: int, outside: int) -> Tensor:
    """Squares of ``side`` whose first pixels lie at ``corner`` (N, 2) of ``planes`` (N, H, W); ``outside`` beyond."""
    height, width = planes.shape[1:]
    step = torch.arange(side, device=planes.device)
    y, x = (corner[:, 0, None] + step)[:, :, None], (corner[:, 1, None] + step)[:, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    seen = planes.flatten(1).gather(1, places.flatten(1)).view(len(planes), side, side)
    return seen.masked_fill(~inside, outside)


def bounds(mask: Tensor) -> Tensor:
    """(N, 4) int64 box of each mask (N, H, W): top, left, bottom, right, the latter two exclusive."""
    ends = []
    for axis in (2, 1):
        line = mask.any(axis).int()
        ends.append((line.argmax(1), line.shape[1] - line.flip(1).argmax(1)))
    (top, bottom), (left, right) = ends
    return torch.stack((top, left, bottom, right), 1)


def within(box: Tensor, side: int) -> Tensor:
    """(N, side, side) bool: which pixels lie in the boxes (N, 4)."""
    step = torch.arange(side, device=box.device)
    rows = (step >= box[:, 0, None]) & (step < box[:, 2, None])
    columns = (step >= box[:, 1, None]) & (step < box[:, 3, None])
    return rows[:, :, None] & columns[:, None, :]


def count(mask: Tensor) -> Tensor:
    """(N,) int64 pixels of each mask (N, H, W)."""
    return mask.flatten(1).sum(1)
