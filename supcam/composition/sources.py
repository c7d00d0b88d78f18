"""Crops to compose from, and what is measured of each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.composition.masks import Body, Grey, Mask, Points, bounding_box, core_width, find_body
from supcam.composition.seams import find_seams
from supcam.composition.warp import Sheet
from supcam.data.crops import CropSet
from supcam.errors import SupcamError
from supcam.settings import ComposeSettings


@dataclass(frozen=True)
class SourceCrops:
    """Crops that are drawn or changed rather than read, with what composition asks of a ``CropSet``.

    Attributes:
        frame: One row per crop with a column ``crop_id``.
        images: Grey crops (H, W), white background 255.
        labels: (N,) ClusterType of each.
        groups: What each shares its appearance with: source and case.
    """

    frame: pd.DataFrame
    images: Sequence[Grey]
    labels: NDArray[np.int64]
    groups: Sequence[str]


Sources: TypeAlias = CropSet | SourceCrops


@dataclass(frozen=True)
class Source:
    """A crop that passed the quality gates: its masks, and the margins (top, left, bottom, right) around its halo."""

    body: Body
    margin: tuple[int, int, int, int]

    @classmethod
    def of(cls, image: Grey, settings: ComposeSettings) -> "Source":
        """The source in a crop (H, W) in which ``source_defect`` finds nothing."""
        body = find_body(image, settings)
        if body is None:
            raise ValueError("an empty crop cannot be a source")
        rows, columns = bounding_box(body.halo)
        top, left = body.corner[0] + rows.start, body.corner[1] + columns.start
        bottom = image.shape[0] - body.corner[0] - rows.stop
        right = image.shape[1] - body.corner[1] - columns.stop
        return cls(body, (top, left, bottom, right))

    @cached_property
    def sheet(self) -> Sheet:
        """What is warped; made at the first use, since most sets hold more crops than one run takes."""
        return Sheet.of(self.body.image)

    @cached_property
    def greys(self) -> Mask:
        """Which grey values (256,) it holds."""
        return np.bincount(self.body.image.ravel(), minlength=256) > 0

    @cached_property
    def width(self) -> float:
        """Thickness of its chromosomes in pixels, measured once and scaled with each warp."""
        return core_width(self.body.core)

    @cached_property
    def seams(self) -> tuple[Points, ...]:
        """Where its touch may lie, if it is a cluster that touches: each the pixels (K, 2) of the body's frame."""
        return find_seams(self.body, self.width)


def refuse_leaks(frame: pd.DataFrame) -> None:
    """Refuse sources whose column ``split``, where they have one, is not train.

    Raises:
        SupcamError: for the first such source.
    """
    if "split" not in frame:
        return
    leaks = frame.loc[frame["split"] != "train", "crop_id"]
    if len(leaks):
        raise SupcamError(
            f"{len(leaks)} sources are not of the training split, first {leaks.iloc[0]!r}: "
            "composites of them would leak into training. Pass the rows with split = train only."
        )
