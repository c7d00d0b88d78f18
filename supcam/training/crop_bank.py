"""Crops as one uint8 tensor, in memory or in a mapped file, with what sampling needs to know about each."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.crops import CropSet
from supcam.data.manifest import DRAWN
from supcam.errors import SettingError, UsageError
from supcam.files import replaced_file
from supcam.settings import InputSettings

UNCERTAIN_WEIGHT = 0.5
WHITE = 255
_CHUNK = 1024


@dataclass
class CropBank:
    """Training crops at their input size.

    Attributes:
        images: (N, 1, S, S) uint8, 255 background, on the training device or mapped from a file.
        labels: (N,) int64 class indices, on the training device.
        weights: (N,) sampling weight of each crop within its type and domain; a doubtful label weighs half.
        domains: (N,) int64 code of the laboratory, composites apart from real crops.
        composed: (N,) bool: composites and drawn crops.
        drawn: (N,) bool: drawn single chromosomes and composites of them.
    """

    images: Tensor
    labels: Tensor
    weights: NDArray[np.float64]
    domains: NDArray[np.int64]
    composed: NDArray[np.bool_]
    drawn: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_crops(
        cls, crops: CropSet, settings: InputSettings, device: torch.device, folder: Path | None = None
    ) -> "CropBank":
        """Resize every crop once, onto ``device``; with ``memory_map`` images go to ``folder/crops.npy`` and are read
        from there, so a set larger than memory trains the same.

        Raises:
            SettingError: when ``memory_map`` is set without a folder.
        """
        composed, labels = is_composed(crops), torch.from_numpy(np.array(crops.labels)).to(device)
        sources = crops.frame["source"].astype(str)
        domains = domain_codes(sources.tolist(), composed)
        drawn = composed & (sources == DRAWN).to_numpy(dtype=bool)
        return cls(canvases(crops, settings, device, folder), labels, label_weights(crops), domains, composed, drawn)

    def start_epoch(self, epoch: int) -> None:
        """Make the crops of an epoch available. Here every epoch has the same ones."""

    def close(self) -> None:
        """End what brings the crops. Here nothing does."""

    def metrics(self) -> dict[str, float]:
        """What to log about the crops of the present epoch."""
        return {}

    def take(self, indices: Tensor) -> Tensor:
        """Canvases (B, 1, S, S) uint8 of crop indices (B,), on the device of the labels."""
        return self.images[indices.to(self.images.device)].to(self.labels.device)


def canvases(
    crops: CropSet, settings: InputSettings, device: torch.device, folder: Path | None, spare: int = 0
) -> Tensor:
    """Crops as squares (N + spare, 1, S, S) uint8, the spare ones blank, on ``device`` or mapped from a file.

    Raises:
        SettingError: when ``memory_map`` is set without a folder.
    """
    size, scale = settings.size, settings.scale
    if not settings.memory_map:
        blank = np.full((spare, 1, size, size), WHITE, dtype=np.uint8)
        return torch.from_numpy(np.concatenate([crops.canvas(size, scale), blank])).to(device)
    if folder is None:
        raise SettingError("input.memory_map", True, "true only where a state folder is given")
    path = folder / "crops.npy"
    with replaced_file(path) as fresh:
        target = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=(len(crops) + spare, 1, size, size))
        for start in range(0, len(crops), _CHUNK):  # in parts, as all canvases may not fit into memory
            rows = list(range(start, min(start + _CHUNK, len(crops))))
            target[rows] = crops.subset(rows).canvas(size, scale)
        target.flush()
        del target
    # Copy-on-write satisfies torch, which wants a writable array, and never changes the file.
    return torch.from_numpy(np.lib.format.open_memmap(path, mode="c"))


def label_weights(crops: CropSet) -> NDArray[np.float64]:
    """Sampling weight (N,) of each crop by how certain its label is."""
    return np.where(crops.frame["label_certain"].astype(bool).to_numpy(), 1.0, UNCERTAIN_WEIGHT)


def domain_codes(sources: list[str], composed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Integer code (N,) of each crop's domain: its source, composites apart from real crops."""
    names = [f"{source}/composed" if flag else source for source, flag in zip(sources, composed, strict=True)]
    return np.unique(names, return_inverse=True)[1]


def is_composed(crops: CropSet) -> NDArray[np.bool_]:
    """(N,) bool: crops that were composed or drawn, which carry a relation."""
    if "relation" not in crops.frame:
        return np.zeros(len(crops), dtype=bool)
    return (crops.frame["relation"].fillna("").astype(str) != "").to_numpy(dtype=bool)


def check_training_crops(crops: CropSet, batch_size: int, setting: str) -> None:
    """Refuse training data that no schedule can use.

    Raises:
        UsageError: for a label outside the four types, or a type with a single crop.
        SettingError: for a batch larger than the data.
    """
    counts = np.bincount(crops.labels, minlength=len(ClusterType))
    if batch_size > len(crops):
        raise SettingError(setting, batch_size, f"at most the number of training crops, {len(crops)}")
    for name, count in zip(TYPE_LABELS, counts, strict=True):
        if count == 1:
            raise UsageError(
                f"type {name} has 1 training crop; allowed are none or at least 2. Import more crops of it, raise "
                "compose.count, or change the split."
            )


def crops_digest(crops: CropSet) -> str:
    """SHA-256 over images, labels and weights in their order: another order trains another model."""
    digest = hashlib.sha256()
    for image in crops.images:
        digest.update(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    for name in ("type", "source", "label_certain", "relation"):
        if name in crops.frame:
            digest.update("\n".join(crops.frame[name].astype(str)).encode())
    return digest.hexdigest()
