"""The small network for clusters with overlaps: its targets, a U-Net, its training on composites, its export.

Training alone needs this file, and with it the extra ``train``; what runs the network is ``methods.py``.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from methods import CONTACT, EIGHT, INSIDE, OUTSIDE, OVERLAP, SIDE_STEP, Grey, Masks, Targets, native, resized
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from supcam.composition.composer import Composer, Composite
from supcam.data.crops import CropSet
from supcam.settings import ComposeSettings

WEIGHTS = (0.5, 1.0, 2.0, 4.0)  # of the classes: contacts are few pixels


def composites(crops: CropSet, count: int, seed: int) -> Iterator[Composite]:
    """Clusters with the masks of their chromosomes, composed of single ones."""
    settings = ComposeSettings(
        target_shares={"touching": 1.0, "overlapping": 1.5, "touching-overlapping": 1.5},
        chain_shares=[0.55, 0.3, 0.1, 0.05],
        canvas=256,
    )
    singles = crops.subset((crops.frame["type"] == "instance").to_numpy() & crops.frame["label_certain"].to_numpy())
    composer = Composer(singles, settings, keep_masks=True)
    index = made = 0
    while made < count and index < 4 * count:
        found = composer.compose(seed, index)
        index += 1
        if isinstance(found, Composite):
            made += 1
            yield found


def chromosomes(composite: Composite) -> Masks:
    """Masks of the sources of a composite, (N, H, W)."""
    assert composite.masks is not None
    return composite.masks[:-1]


def targets_of(composite: Composite) -> Targets:
    """Class of each pixel of a composite (H, W): outside, chromosome, overlap, contact.

    An overlap is where several masks meet around a shared core; soft edges that merely merge are contacts, and so are
    the pixels of one chromosome beside another.
    """
    assert composite.masks is not None
    masks, core = composite.masks[:-1], composite.masks[-1]
    several = masks.sum(axis=0) > 1
    labels, _ = ndimage.label(several, EIGHT)
    crossed = several & np.isin(labels, np.unique(labels[core & several]))
    targets = np.where(masks.any(axis=0), INSIDE, OUTSIDE)
    alone = [mask & ~several for mask in masks]
    near = [ndimage.binary_dilation(mask, EIGHT) for mask in alone]
    contact = several & ~crossed
    for number, mask in enumerate(alone):
        others = np.any([other for index, other in enumerate(near) if index != number], axis=0)
        contact |= mask & others
    targets[contact & ~ndimage.binary_dilation(crossed, EIGHT)] = CONTACT
    targets[crossed] = OVERLAP
    return targets.astype(np.uint8)


class UNet(nn.Module):
    """Three levels; (B, 1, H, W) ink 0-1 to (B, 4, H, W) logits, sides multiples of 8."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        channels = [width, 2 * width, 3 * width, 4 * width]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([1, *channels[:-1]], channels, strict=True))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in pairwise(channels))
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, ink: Tensor) -> Tensor:
        """Logits of the four classes."""
        kept = []
        for level, block in enumerate(self.down):
            ink = block(functional.max_pool2d(ink, 2) if level else ink)
            kept.append(ink)
        for level in (2, 1, 0):
            larger = functional.interpolate(ink, scale_factor=2.0, mode="nearest")
            ink = self.up[level](torch.cat([kept[level], larger], dim=1))
        return self.head(ink)


def _block(inside: int, outside: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers)


def examples_of(made: Sequence[Composite]) -> list[tuple[Grey, Targets]]:
    """Composites and their targets at the network's scale."""
    scaled = [native(one.image) for one in made]
    return [(crop, resized(targets_of(one), crop.shape)) for crop, one in zip(scaled, made, strict=True)]


def fit(examples: Sequence[tuple[Grey, Targets]], steps: int, seed: int, side: int = 64, batch: int = 12) -> UNet:
    """Train on random windows, turned and changed in tone; one cycle of the learning rate."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network = UNet().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=6e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    loss = nn.CrossEntropyLoss(torch.tensor(WEIGHTS))
    for step in range(steps):
        chosen = random.integers(len(examples), size=batch)
        windows = [_window(*examples[index], side, random) for index in chosen]
        ink = torch.from_numpy(np.stack([window for window, _ in windows]))[:, None]
        wanted = torch.from_numpy(np.stack([target for _, target in windows])).long()
        found = loss(network(ink), wanted)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {found.item():.3f}", flush=True)
    return network.eval()


def _window(
    crop: Grey, targets: Targets, side: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], Targets]:
    """A random window of a crop, white where it ends, flipped and turned, its ink scaled, bent and grained."""
    tall, wide = (max(side - length, 0) for length in crop.shape)
    frame = ((tall // 2, tall - tall // 2), (wide // 2, wide - wide // 2))
    crop, targets = np.pad(crop, frame, constant_values=255), np.pad(targets, frame)
    top, left = (int(random.integers(length - side + 1)) for length in crop.shape)
    ink = 1 - crop[top : top + side, left : left + side].astype(np.float32) / 255
    targets = targets[top : top + side, left : left + side]
    turns, flip = int(random.integers(4)), bool(random.integers(2))
    ink, targets = np.rot90(ink, turns), np.rot90(targets, turns)
    if flip:
        ink, targets = ink[:, ::-1], targets[:, ::-1]
    ink = np.where(ink > 0, np.power(ink, random.uniform(0.6, 1.5)) * random.uniform(0.7, 1.3), 0)
    if random.random() < 0.4:
        ink = ndimage.gaussian_filter(ink, random.uniform(0.3, 0.9))
    ink = ink + random.normal(0, random.uniform(0, 0.02), ink.shape) * (ink > 0)
    return np.clip(ink, 0, 1).astype(np.float32), np.ascontiguousarray(targets)


def export(network: UNet, path: Path) -> None:
    """Write the network as ONNX; logits become probabilities, sides stay free."""

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ink: Tensor) -> Tensor:
            return self.network(ink).softmax(dim=1)

    sides = {2: torch.export.Dim("h", min=2) * SIDE_STEP, 3: torch.export.Dim("w", min=2) * SIDE_STEP}
    torch.onnx.export(
        Probabilities().eval(), (torch.zeros(1, 1, 64, 72),), path, input_names=["ink"], output_names=["probabilities"],
        dynamic_shapes={"ink": sides}, external_data=False, verbose=False,
    )  # fmt: skip
