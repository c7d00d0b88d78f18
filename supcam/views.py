"""Training views of crops: turned, mirrored, scaled and shifted whole, never cropped, so the type stays what it was.

Everything is batched on the crops' device. Random numbers are counted, not drawn in order: a view depends on its seed
alone, whatever the batch, the process or the device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, pad

# Foreground is v < 250 of 255; in inverted units half a grey level below its lightest value.
HALO = 5.5 / 255.0
NOISE_FIELDS = 32
_DRAWS = 12


@dataclass(frozen=True)
class ViewRanges:
    """How far a view may move from its crop.

    Attributes:
        scale: Smallest and largest scale.
        shift: Largest shift along an axis, as a share of the side.
        bend: How far the middle of a line across the whole square may bow from its ends, in halves of the side.
        gamma: Largest absolute logarithm of the exponent on darkness.
        contrast: Largest absolute logarithm of the factor on darkness.
        blur: Largest share of blurred image mixed in, 0 to 1.
        sharpen: Largest share of detail added, 0 or more.
        noise: Largest standard deviation of noise on the foreground, in units of full darkness.
    """

    scale: tuple[float, float] = (0.85, 1.15)
    shift: float = 0.05
    bend: float = 0.3
    gamma: float = 0.35
    contrast: float = 0.25
    blur: float = 0.8
    sharpen: float = 0.8
    noise: float = 0.03


def to_input(crops: Tensor) -> Tensor:
    """Turn uint8 crops (255 background) into float32 darkness, 0 background to 1 black; any shape."""
    # In place: on a CPU fresh memory costs more than arithmetic.
    return crops.to(torch.float32, copy=True).neg_().add_(255.0).div_(255.0)


def _mixed(value: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014) on int64, which wraps as unsigned arithmetic does."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        value = (value ^ ((value >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def counted_uniform(seeds: Tensor, count: int) -> Tensor:
    """Uniform numbers (B, count) float64 in [0, 1) of int64 seeds (B,): row b depends on ``seeds[b]`` only."""
    steps = torch.arange(1, count + 1, device=seeds.device) * -0x61C8864680B583EB
    bits = _mixed(seeds[:, None] + steps[None, :])
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def view_seeds(crops: Tensor, slots: Tensor, *, seed: int, epoch: int, view: int) -> Tensor:
    """One int64 seed (B,) per view from crop indices (B,), slots in the epoch (B,), run seed, epoch and view number."""
    state = torch.full_like(crops, seed)
    for part in (epoch, view, slots, crops):
        state = _mixed((state ^ part) + 0x1E3779B97F4A7C15)
    return state


class TrainViews(nn.Module):
    """Random whole views of crops of one size.

    Attributes:
        ranges: How far a view may move from its crop.

    Shape:
        - crops: (B, 1, S, S) uint8, 255 background; seeds: (B,) int64, one per view.
        - output: (B, 1, S, S) float32, 0 background to 1.
    """

    noise: Tensor

    def __init__(self, size: int, ranges: ViewRanges | None = None) -> None:
        super().__init__()
        self.ranges = ranges or ViewRanges()
        fields = torch.randn(
            NOISE_FIELDS, 1, size, size, dtype=torch.float32, generator=torch.Generator().manual_seed(0)
        )
        self.register_buffer("noise", fields, persistent=False)

    @torch.no_grad()
    def forward(self, crops: Tensor, seeds: Tensor) -> Tensor:
        """Views of the crops, one for each seed."""
        draws = counted_uniform(seeds, _DRAWS).float()
        return self.appearance(self.geometry(to_input(crops), draws), draws)

    def geometry(self, darkness: Tensor, draws: Tensor) -> Tensor:
        """Turn, mirror, bend, scale and shift (B, 1, S, S); scaled down further where it would leave the square."""
        return self.placed(darkness, draws)[0]

    def placed(self, darkness: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The views of ``geometry`` and the scale (B,) that each got."""
        low, high = self.ranges.scale
        # Functions of one number per view in double: in single their last bit differs with the place in the batch.
        angle = draws[:, 0].double() * (2.0 * math.pi)
        cos, sin = angle.cos().to(draws.dtype), angle.sin().to(draws.dtype)
        mirror = _sign(draws[:, 1])
        forward = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
        # Single chromosomes bend, and a bent one looks like two that touch: crops of few of them teach the difference.
        bend = (draws[:, 11:12] * 2.0 - 1.0) * self.ranges.bend
        least, most = _extents(darkness, forward, bend)
        room = 1.0 - 1.0 / darkness.shape[-1]
        fitting = 2.0 * room / (most - least).amax(dim=1).clamp(min=1e-3)
        scale = torch.minimum(low + (high - low) * draws[:, 2], fitting)[:, None]
        shift = (draws[:, 3:5] * 2.0 - 1.0) * (2.0 * self.ranges.shift)
        shift = torch.maximum(torch.minimum(shift, room - scale * most), -room - scale * least)
        grid = _sampling_grid(forward.transpose(1, 2), shift, scale, bend, darkness.shape[-1])
        view = grid_sample(darkness, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return view, scale[:, 0]

    def appearance(self, darkness: Tensor, draws: Tensor) -> Tensor:
        """Vary tone, sharpness and noise (B, 1, S, S) inside the foreground; its outline stays to the pixel."""
        ranges, shape = self.ranges, (-1, 1, 1, 1)
        wide = draws[:, 5:7].double() * 2.0 - 1.0  # in double for the reason that geometry gives
        gamma = (wide[:, 0] * ranges.gamma).exp()
        contrast = ((wide[:, 1] * ranges.contrast).exp() / (1.0 - HALO) ** gamma).to(draws.dtype)
        gamma = gamma.to(draws.dtype)
        detail = draws[:, 7] * (ranges.blur + ranges.sharpen) - ranges.blur
        grain = draws[:, 8] * ranges.noise * _sign(draws[:, 10])
        # In place from here on: each pass over fresh memory would cost several over memory in use.
        tone = darkness.clamp(min=HALO).sub_(HALO).pow_(gamma.reshape(shape)).mul_(contrast.reshape(shape))
        tone.clamp_(max=1.0)
        tone.lerp_(_blurred(tone), -detail.reshape(shape))
        tone.addcmul_(self.noise[(draws[:, 9] * NOISE_FIELDS).long()].to(tone.dtype), grain.reshape(shape))
        tone.mul_(1.0 - HALO).add_(HALO).clamp_(1.01 * HALO, 1.0)
        return torch.where(darkness > HALO, tone, darkness)


def _sampling_grid(back: Tensor, shift: Tensor, scale: Tensor, bend: Tensor, size: int) -> Tensor:
    """Where each pixel of a view lies in its crop, (B, S, S, 2) in [-1, 1] units: shift, scale and bend undone, then
    ``back`` (B, 2, 2). Scale and bend are (B, 1).

    The sum of a row and a column of vectors, many times cheaper than ``affine_grid``'s matrix product.
    """
    axis = _pixel_centres(size, back)
    across, down = ((axis - shift[:, i : i + 1]) / scale for i in (0, 1))
    bowed = bend * (down.square() - 1.0 / 3.0)
    rows = down[:, :, None] * back[:, None, :, 1] + bowed[:, :, None] * back[:, None, :, 0]
    return rows[:, :, None] + (across[:, :, None] * back[:, None, :, 0])[:, None]


def _pixel_centres(size: int, like: Tensor) -> Tensor:
    """Coordinates (S,) of the centres of a row's pixels in [-1, 1] units, on the device and in the type of ``like``."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2.0 + 1.0) / size - 1.0


def _blurred(tone: Tensor) -> Tensor:
    """Blur (B, 1, S, S) by (1 2 2 2 1) / 8 along both axes, as sums of neighbours one, two and one pixels apart.

    Slices instead of a convolution: the same bits whatever the batch, and no slower.
    """
    spread = pad(tone, (2, 2, 2, 2))
    for step in (1, 2, 1):
        spread = spread[..., step:] + spread[..., :-step]
        spread = spread[..., step:, :] + spread[..., :-step, :]
    return spread.div_(64.0)


def _sign(draws: Tensor) -> Tensor:
    """Minus or plus one, in the type of the draws (a choice between plain numbers takes torch's default type)."""
    return (draws >= 0.5).to(draws.dtype) * 2.0 - 1.0


def _extents(darkness: Tensor, forward: Tensor, bend: Tensor) -> tuple[Tensor, Tensor]:
    """Least and most (B, 2) coordinates of the foreground after the map ``forward`` (B, 2, 2) and the bend (B, 1).

    In [-1, 1] units. Only each column's first and last foreground pixel are looked at. Under the linear map the others
    lie between them; the bend moves those outwards by no more than its bow over the stretch, which is added.
    """
    size = darkness.shape[-1]
    foreground = darkness[:, 0] > HALO
    numbers = torch.arange(1, size + 1, device=darkness.device, dtype=torch.int16)[:, None]
    last = (foreground * numbers).amax(dim=1) - 1
    first = size - (foreground * numbers.flip(0)).amax(dim=1)
    ends = torch.stack([first, last], dim=1).to(darkness.dtype)
    ends = (ends * 2.0 + 1.0) / size - 1.0
    along, down = forward[:, :, 0, None, None], forward[:, :, 1, None, None]
    turned = along * _pixel_centres(size, forward) + down * ends[:, None]  # (B, 2 coordinates, 2 ends, S)
    x, y = turned.unbind(1)
    turned = torch.stack([x - bend[:, :, None] * (y.square() - 1.0 / 3.0), y], dim=1)
    bow = torch.zeros_like(turned)
    bow[:, 0] = (bend * (y[:, 1] - y[:, 0]).square() / 4.0)[:, None]
    some = (last >= 0)[:, None, None]
    border = 1.0 / size
    least = torch.where(some, turned + bow.clamp(max=0.0), 1.0).amin(dim=(2, 3)) - border
    most = torch.where(some, turned + bow.clamp(min=0.0), -1.0).amax(dim=(2, 3)) + border
    return torch.minimum(least, most), torch.maximum(least, most)
