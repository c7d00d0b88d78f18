"""Every integer shift of many pairs at once: how much they would share, which shifts are admissible, one of them."""

import torch
from torch import Tensor

from supcam.cluster_type import Relation
from supcam.composition.batched.masks import Bodies, spread
from supcam.composition.placement import LEAST_CROSSING, NEAR, SINGLE
from supcam.settings import ComposeSettings

_FULL_WEIGHT = 2.0**32  # of the likeliest shift: whole numbers add up to the same in any order


def shared_areas(first: Tensor, second: Tensor) -> Tensor:
    """Shared pixels of mask pairs (..., K, K) and (..., S, S) for each shift: (..., K, K), whole numbers.

    Entry (r, c) belongs to the shift of ``second`` by (r, c), or by (r - K, c - K) where that moves it up or left. The
    pair must fit on K pixels in every shift that counts, else far ends meet.
    """
    side = first.shape[-1]
    dtype = torch.float64 if side * side > SINGLE else torch.float32
    spectrum = torch.fft.rfft2(first.to(dtype))
    spectrum *= torch.fft.rfft2(second.to(dtype), s=(side, side)).conj()
    counts: Tensor = torch.fft.irfft2(spectrum, s=(side, side)).round()
    return counts


def shift_weights(first: Bodies, second: Bodies, relation: Tensor, settings: ComposeSettings) -> Tensor:
    """Weights (N, K, K) int64 of all shifts of ``second``, 0 where ``supcam.composition.placement`` admits none.

    ``first`` lies on frames of K pixels, ``second`` on S; the content of ``first`` ends S pixels before its frame does.
    """
    weights = torch.zeros(first.halo.shape, dtype=torch.int64, device=first.halo.device)
    touch = relation == Relation.TOUCH
    for rows, weigh in ((touch.nonzero()[:, 0], _touching), ((~touch).nonzero()[:, 0], _overlapping)):
        if len(rows):
            weights[rows] = weigh(first.take(rows), second.take(rows), settings)
    return weights * _within_canvas(first, second, settings.canvas)


def signed(shift: Tensor, side: int, small: int) -> Tensor:
    """Shifts as entries of a map of ``side`` pixels, as steps; ``small`` is the frame of what is shifted."""
    return torch.where(shift > side - small, shift - side, shift)


def draw_shifts(weights: Tensor, u: Tensor) -> Tensor:
    """One entry (row, column) of each map (N, K, K) int64, by weight, for uniform numbers (N,)."""
    lines = weights.sum(2).cumsum(1)
    aim = torch.minimum((u * lines[:, -1]).long(), lines[:, -1] - 1)
    row = (lines <= aim[:, None]).sum(1)
    line = weights[torch.arange(len(row), device=row.device), row].cumsum(1)
    above = lines.gather(1, row[:, None])[:, 0] - line[:, -1]
    return torch.stack((row, (line <= (aim - above)[:, None]).sum(1)), 1)


def _touching(first: Bodies, second: Bodies, settings: ComposeSettings) -> Tensor:
    cut = first.cut | second.cut
    plain = cut[:, None, None]
    near = second.core | (second.halo & (second.image < settings.core_level + NEAR))
    left = torch.stack((first.core.where(plain, spread(first.core)), first.halo, spread(first.halo)), 1)
    right = torch.stack((second.core.where(plain, near), second.halo, second.halo), 1)
    cores, haloes, contact = shared_areas(left, right).unbind(1)
    smaller = torch.minimum(first.halo_area, second.halo_area)
    most = (settings.max_halo_overlap_share * smaller.double()).clamp(max=settings.max_halo_overlap)
    fits = (cores == 0) & (haloes <= most[:, None, None]) & (contact >= settings.min_contact)
    fits &= haloes >= (~cut).int()[:, None, None]
    contact = contact.double().where(fits, 0.0)
    weights = (contact / contact.amax((1, 2), keepdim=True).clamp(min=1.0)) ** settings.contact_power
    return (weights * _FULL_WEIGHT).round().long().where(fits, 0)


def _overlapping(first: Bodies, second: Bodies, settings: ComposeSettings) -> Tensor:
    shared = shared_areas(first.core, second.core)
    smaller = torch.minimum(first.core_area, second.core_area).double()
    low = torch.maximum(settings.min_core_overlap_share * smaller, LEAST_CROSSING * first.width * second.width)
    high = settings.max_core_overlap_share * smaller
    return ((shared >= low[:, None, None]) & (shared <= high[:, None, None])).long()


def _within_canvas(first: Bodies, second: Bodies, canvas: int) -> Tensor:
    """(N, K, K) bool: shifts that make a composite no larger than ``canvas`` pixels on either side."""
    side, small = first.halo.shape[1], second.halo.shape[1]
    step = signed(torch.arange(side, device=first.box.device), side, small)
    fits = []
    for axis in (0, 1):
        start, end = first.box[:, axis, None], first.box[:, axis + 2, None]
        begin, stop = second.box[:, axis, None] + step, second.box[:, axis + 2, None] + step
        fits.append(torch.maximum(end, stop) - torch.minimum(start, begin) <= canvas)
    return fits[0][:, :, None] & fits[1][:, None, :]
