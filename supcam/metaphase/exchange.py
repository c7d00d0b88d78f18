"""Objects in the forms that other programs read: COCO JSON, and GeoJSON as QuPath takes it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.metaphase.metaphase import Metaphase
from supcam.metaphase.objects import Ring, Thing
from supcam.metaphase.palette import COLOURS, OTHER


class Coco:
    """COCO of the typed objects of some pictures; the categories are the four types.

    Objects without holes are polygons, others run-length encoded, since a COCO polygon has no holes.
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, name: str, metaphase: Metaphase) -> None:
        """Add a picture under the name of its file."""
        height, width = metaphase.image.shape
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for thing, row in metaphase.rows:
            if row["type"]:
                self._annotations.append(
                    {
                        "id": len(self._annotations) + 1,
                        "image_id": image_id,
                        "category_id": TYPE_LABELS.index(row["type"]) + 1,
                        "segmentation": _segmentation(thing, (height, width)),
                        "area": row["area"],
                        "bbox": [row["left"], row["top"], row["width"], row["height"]],
                        "iscrowd": 0,
                        "score": round(row["confidence"], 4),
                        "attributes": {name: row[name] for name in ("object", "needs_review", "reason")},
                    }
                )

    def content(self) -> dict[str, Any]:
        """What the JSON file holds."""
        categories = [
            {"id": number, "name": name, "supercategory": "cluster"} for number, name in enumerate(TYPE_LABELS, 1)
        ]
        return {
            "info": {"description": "supcam metaphase"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }


def _segmentation(thing: Thing, shape: tuple[int, int]) -> list[list[float]] | dict[str, Any]:
    outlines, holes = thing.rings
    if not holes:
        return [[value for point in ring[:-1] for value in point] for ring in outlines]
    return {"size": list(shape), "counts": _runs(thing, shape)}


def _runs(thing: Thing, shape: tuple[int, int]) -> list[int]:
    """Lengths of the runs of the picture's columns outside and inside in turn, as COCO encodes a mask."""
    height = shape[0]
    columns, rows = np.nonzero(thing.mask.T)
    places = (columns + thing.left) * height + rows + thing.top
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts: NDArray[np.intp] = np.concatenate([places[:1], places[breaks + 1]])
    ends: NDArray[np.intp] = np.concatenate([places[breaks], places[-1:]]) + 1
    marks = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [shape[0] * shape[1]]])
    return [int(length) for length in np.diff(marks)]


def geojson(metaphase: Metaphase) -> dict[str, Any]:
    """All things of a picture as a GeoJSON collection; QuPath shows the types as classifications in their colours."""
    features = []
    for thing, row in metaphase.rows:
        outlines, holes = thing.rings
        name = row["type"] or row["reason"]
        measurements = {"area": row["area"]}
        if row["type"]:
            measurements["confidence"] = round(row["confidence"], 4)
        features.append(
            {
                "type": "Feature",
                "id": f"object-{row['object']}",
                "geometry": _geometry(outlines, holes),
                "properties": {
                    "objectType": "annotation",
                    "name": str(row["object"]),
                    "classification": {"name": name, "color": list(COLOURS.get(name, OTHER))},
                    "measurements": measurements,
                    "needs_review": row["needs_review"],
                    "reason": row["reason"],
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _geometry(outlines: Sequence[Ring], holes: Sequence[Ring]) -> dict[str, Any]:
    """One outline with its holes is a polygon; an object of several pieces, each beside the other, several."""
    if len(outlines) == 1:
        return {"type": "Polygon", "coordinates": [outlines[0], *holes]}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in outlines]}
