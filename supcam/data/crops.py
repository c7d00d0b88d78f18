"""The in-memory crop set: the rows of a manifest and their decoded images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import ClusterType
from supcam.serving.images import Reading, read_crop, square_of
from supcam.serving.reading import Measurements


@dataclass(frozen=True)
class CropSet:
    """Crops in memory: ``frame`` has one manifest row per entry of ``images``, each (H, W) 8-bit grey on white.

    ``measured`` is what was measured on each file when it was read, empty for crops that come from no file.
    """

    frame: pd.DataFrame
    images: list[NDArray[np.uint8]]
    measured: list[Measurements] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.frame) != len(self.images) or len(self.measured) not in (0, len(self.images)):
            raise ValueError(
                f"{len(self.frame)} rows but {len(self.images)} images and {len(self.measured)} measurements"
            )

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(cls, frame: pd.DataFrame, root: Path) -> "CropSet":
        """Decode every crop of a manifest; ``root`` is the folder its paths start from.

        Raises:
            ImageError: for the first crop that cannot be read.
        """
        read = [read_crop(root / path) for path in frame["path"]]
        return cls(frame.reset_index(drop=True), [one.image for one in read], [one.measurements for one in read])

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class indices (N,), values of ``ClusterType``.

        Raises:
            UsageError: for a type that is not one of the four.
        """
        codes = {name: int(ClusterType.parse(name)) for name in self.frame["type"].unique()}
        return self.frame["type"].map(codes).to_numpy(dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        """What each crop shares its appearance with: ``source/case_id``, or the source where there is no case."""
        pairs = zip(self.frame["source"], self.frame["case_id"], strict=True)
        return [f"{source}/{case}" if case else str(source) for source, case in pairs]

    @property
    def sources(self) -> "list[NDArray[np.uint8]] | list[Reading]":
        """What an engine predicts: the crops as they were read from their files, so that they are not read again."""
        if not self.measured:
            return self.images
        pairs = zip(self.images, self.measured, strict=True)
        return [Reading(image, image.shape, measurements=measured) for image, measured in pairs]

    def canvas(self, size: int, scale: Literal["letterbox", "native"] = "letterbox") -> NDArray[np.uint8]:
        """All crops as squares on white, shape (N, 1, size, size), 8-bit."""
        squares = [square_of(image, size, scale) for image in self.images]
        return np.array(squares, dtype=np.uint8).reshape(-1, 1, size, size)

    def subset(self, mask: NDArray[Any] | Sequence[bool] | Sequence[int]) -> "CropSet":
        """The crops of a boolean mask (N,) or of a list of positions, in that order."""
        chosen = np.asarray(mask)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        if chosen.dtype == np.bool_ and len(chosen) != len(self):
            raise ValueError(f"mask has {len(chosen)} entries for {len(self)} crops")
        positions = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        images = [self.images[position] for position in positions]
        measured = [self.measured[position] for position in positions] if self.measured else []
        return CropSet(self.frame.iloc[positions].reset_index(drop=True), images, measured)

    def concat(self, other: "CropSet") -> "CropSet":
        """These crops followed by others; a column that one side lacks is empty text there."""
        frame = pd.concat([self.frame, other.frame], ignore_index=True)
        text = [name for name in frame.columns if name not in ("width", "height", "label_certain")]
        frame[text] = frame[text].fillna("")
        measured = self.measured + other.measured
        return CropSet(frame, self.images + other.images, measured if len(measured) == len(frame) else [])
