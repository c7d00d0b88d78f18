"""A whole metaphase, from a picture to typed objects, in one class of the light client."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from supcam.metaphase.objects import Scene, Thing, scene_of
from supcam.metaphase.segmentation import find_objects
from supcam.serving.decoding import Source, decode_plane
from supcam.serving.paper import WHITE

if TYPE_CHECKING:
    from supcam.registry.client import Predictor

OBJECT_COLUMNS = ("object", "left", "top", "width", "height", "area", "type", "confidence", "needs_review", "reason")
# White around a crop, pixels; and the soft edge that it shows, one pixel for so many of a chromosome's width. Crops
# from masks (supcam.data.masks), on which models train, show the same.
_MARGIN, _RIM_WIDTHS = 2, 11


@dataclass(frozen=True)
class Segmented:
    """A picture cut into objects, not typed yet.

    Attributes:
        image: (H, W), 0 to 255, dark on bright; not averaged down.
        scene: its things, and why it is not a metaphase.
    """

    image: NDArray[Any]
    scene: Scene

    @cached_property
    def crops(self) -> list[NDArray[np.uint8]]:
        """Crop of each chromosome or cluster, on white with nothing else in it, (h, w)."""
        return [self._crop(thing) for thing in self.scene.things if thing.is_chromosome]

    def _crop(self, thing: Thing) -> NDArray[np.uint8]:
        """A thing with its soft edge on its own paper brought to white, as training crops look; white beyond."""
        rim = max(1, round(self.scene.width / _RIM_WIDTHS))
        margin = rim + _MARGIN
        shown = ndimage.binary_dilation(np.pad(thing.mask, margin), np.ones((3, 3)), iterations=rim)
        values = np.full(shown.shape, WHITE, dtype=np.float32)
        rows, columns = thing.box
        top, left = max(rows.start - margin, 0), max(columns.start - margin, 0)
        part = self.image[top : rows.stop + margin, left : columns.stop + margin]
        down, right = top - rows.start + margin, left - columns.start + margin
        values[down : down + part.shape[0], right : right + part.shape[1]] = part
        values *= WHITE / max(thing.paper, 1.0)
        return np.where(shown, np.clip(np.rint(values), 0, WHITE), WHITE).astype(np.uint8)


def segment(source: Source, *, page: int | None = None) -> Segmented:
    """Cut a picture of a whole metaphase into its objects.

    Args:
        source: A path, encoded bytes, an array or a Pillow image, in any format that crops may have, up to
            6000 x 6000 pixels.
        page: The plane of a stack, from 1.

    Raises:
        ImageError: for what is not one picture.
    """
    plane = decode_plane(source, page=page)
    ground, found = find_objects(plane.values, lossy=plane.lossy)
    values: NDArray[Any] = plane.values
    if values.dtype.kind == "f":  # decoded for this alone, and large
        values[np.isnan(values)] = 0
        values = np.subtract(WHITE, values, out=values) if ground.inverted else values
    elif ground.inverted:
        values = WHITE - values
    return Segmented(values, scene_of(ground, found))


class Metaphase:
    """The objects of one picture of a whole metaphase, each with the type that the production model gives it.

    Attributes:
        image: (H, W), 0 to 255, dark on bright.
        things: nuclei, debris and chromosomes with their masks, in the order of ``objects``.
        objects: one row for each thing: number from 1, box and area in pixels of the picture, type, confidence (0-1),
            needs_review, reason. Nuclei, debris and stain have the type "" and their reason, and need no review.
        crops: of each chromosome or cluster, by its number.
        reason: why the picture does not show exactly one metaphase; empty otherwise.
        is_metaphase: whether it is one; without, there are no objects.
    """

    def __init__(self, source: Source, predictor: "Predictor | None" = None, *, page: int | None = None) -> None:
        """Cut and type a picture.

        Args:
            source: As :func:`segment` takes it.
            predictor: The model; by default the one in production.
            page: The plane of a stack, from 1.

        Raises:
            ImageError: for what is not one picture.
            RegistryError: when there is no predictor and no model in production.
        """
        if predictor is None:
            from supcam.registry.client import load_production

            predictor = load_production()
        segmented = segment(source, page=page)
        self.image = segmented.image
        self.things = segmented.scene.things
        self.reason = segmented.scene.reason
        self.is_metaphase = not segmented.scene.refused
        chromosomes = [number for number, thing in enumerate(self.things, 1) if thing.is_chromosome]
        self.crops = dict(zip(chromosomes, segmented.crops, strict=True))
        answers = predictor.predict(segmented.crops) if self.crops else pd.DataFrame()
        self.objects = _table(self.things, dict(zip(chromosomes, answers.to_dict("records"), strict=True)))

    @property
    def rows(self) -> Iterator[tuple[Thing, dict[Hashable, Any]]]:
        """Each thing with its row of ``objects``."""
        return zip(self.things, self.objects.to_dict("records"), strict=True)

    @property
    def counts(self) -> dict[str, int]:
        """Objects by type, then those that need a person, nuclei, and other things."""
        from supcam.cluster_type import TYPE_LABELS

        counts = {name: int((self.objects["type"] == name).sum()) for name in TYPE_LABELS}
        reasons = [thing.reason for thing in self.things]
        counts["needs_review"] = int(self.objects["needs_review"].sum())
        counts["nuclei"] = reasons.count("interphase nucleus")
        counts["debris"] = sum(not thing.is_chromosome for thing in self.things) - counts["nuclei"]
        return counts


def _table(things: tuple[Thing, ...], answers: dict[int, dict[Any, Any]]) -> pd.DataFrame:
    rows = []
    for number, thing in enumerate(things, 1):
        height, width = thing.mask.shape
        row: dict[str, Any] = {
            "object": number, "left": thing.left, "top": thing.top, "width": width, "height": height,
            "area": thing.area, "type": "", "confidence": np.nan, "needs_review": False, "reason": thing.reason,
        }  # fmt: skip
        if number in answers:
            answer = answers[number]
            row["type"], row["confidence"] = answer["type"], answer["confidence"]
            row["needs_review"] = bool(answer["needs_review"] or thing.reason)
            row["reason"] = "; ".join(text for text in (thing.reason, answer["reason"]) if text)
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(OBJECT_COLUMNS))
    return table.astype({"needs_review": bool, "type": str, "reason": str, "confidence": float})
