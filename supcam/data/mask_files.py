"""Masks of chromosomes as people keep them: label maps, stacks of one mask each, COCO and LabelMe JSON."""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from posixpath import normpath
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from supcam.data.mask_clusters import Box, Outlined, outlined_bodies
from supcam.data.mask_rule import SHARED, Mask
from supcam.errors import UsageError

Shape = tuple[int, int]
Outline = Callable[[Shape], Outlined]  # from the height and width of the picture

# A map of more values is a photograph: no cell has so many chromosomes.
MAX_VALUES = 400
_LARGEST = 2**31 - 1
# An outline may leave the picture by so many pixels; programs round differently.
_OUTSIDE = 2
# Loops of an outline that crosses itself may make up so much of its area.
_LOOPS = 0.02
_LABELS = "Save the labels as PNG or TIFF: whole numbers, 0 for the background."


def read_label_map(content: bytes, overlap: int) -> Outlined:
    """A label map (H, W) of whole numbers, or a stack of one mask for each chromosome.

    Args:
        content: Bytes of a PNG, TIFF, BMP or GIF; a palette's numbers count, not its colours.
        overlap: The value of pixels where chromosomes overlap.

    Raises:
        UsageError: for a lossy format, colours, fractions, one value only, or a photograph.
    """
    values = _exact_values(content)
    if values.ndim == 3:
        return _stack(values)
    used = np.unique(values)
    if len(used) > MAX_VALUES:
        raise UsageError(f"holds {len(used)} values; labels of chromosomes are at most {MAX_VALUES}. {_LABELS}")
    if used[0] < 0 or used[-1] > _LARGEST:
        wrong = used[0] if used[0] < 0 else used[-1]
        raise UsageError(f"holds the value {wrong}; labels are whole numbers from 0 to {_LARGEST}. {_LABELS}")
    if not values.any():
        raise UsageError("marks no chromosome: every pixel is 0. Take it and its picture out, or label it.")
    named = used[(used > 0) & (used != overlap)]
    if len(named) < 2:
        raise UsageError(
            f"has no value but 0 and {used[-1]}, which does not separate chromosomes. "
            "Give each chromosome, or each class, a value of its own."
        )
    owners = values.astype(np.int32)
    owners[values == overlap] = SHARED
    return Outlined(owners)


def _exact_values(content: bytes) -> NDArray[Any]:
    """Numbers as stored, (H, W) or (planes, H, W)."""
    if content.startswith((b"II", b"MM")):
        values, colours = _tiff_values(content)
    else:
        values, colours = _pillow_values(content)
    if colours:
        if values.shape[-1] == 4:
            values = values[..., :3]  # what is transparent has a number too
        if (values == values[..., :1]).all():
            values = values[..., 0]
        else:
            raise UsageError(f"is a picture in colours, not numbers. {_LABELS}")
    if values.dtype.kind == "f":
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            raise UsageError(f"holds fractions such as {values[whole != values].flat[0]:.3g}. {_LABELS}")
        values = whole.astype(np.int64)
    return values.astype(np.int64)


def _tiff_values(content: bytes) -> tuple[NDArray[Any], bool]:
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            page = series.keyframe
            if page.compression in {6, 7, 34933}:
                raise UsageError(f"is compressed as JPEG, which changes values. {_LABELS}")
            values = np.squeeze(series.asarray())
            colours = page.photometric == tifffile.PHOTOMETRIC.RGB and values.ndim == 3 and values.shape[-1] in (3, 4)
    except UsageError:
        raise
    except Exception as error:  # tifffile raises nearly every type on damaged files
        raise UsageError(f"cannot be read: {' '.join(str(error).split())}. {_LABELS}") from None
    if values.ndim not in (2, 3):
        raise UsageError(f"is an array of shape {values.shape}; allowed are (H, W) and (chromosomes, H, W). {_LABELS}")
    if values.ndim == 3 and not colours and values.shape[2] < min(values.shape[:2]):
        values = np.moveaxis(values, 2, 0)
    return values, colours


def _pillow_values(content: bytes) -> tuple[NDArray[Any], bool]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format not in {"PNG", "BMP", "GIF"}:
                raise UsageError(f"is {image.format}, which does not keep exact values. {_LABELS}")
            return np.asarray(image), image.mode not in {"1", "L", "P", "F"} and not image.mode.startswith("I")
    except UsageError:
        raise
    except Exception as error:  # as above
        raise UsageError(f"cannot be read: {' '.join(str(error).split()).partition('<')[0]}. {_LABELS}") from None


def _stack(planes: NDArray[Any]) -> Outlined:
    bodies = []
    for number, plane in enumerate(planes, 1):
        used = np.unique(plane)
        if len(used) > 2:
            raise UsageError(
                f"is a stack whose plane {number} holds {len(used)} values; a plane marks one chromosome by one value. "
                "Save one mask for each chromosome, or one label map."
            )
        if plane.any():
            bodies.append(_cut_out(plane != 0))
    if not bodies:
        raise UsageError("marks no chromosome: every pixel is 0. Take it and its picture out, or label it.")
    return outlined_bodies(bodies, (planes.shape[1], planes.shape[2]))


def read_json(content: bytes) -> dict[str, Any] | None:
    """COCO or LabelMe annotations; None for JSON of another kind.

    Raises:
        UsageError: for what is not JSON.
    """
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (UnicodeError, ValueError) as error:
        raise UsageError(f"is not readable JSON: {error}. Export it again.") from None
    known = isinstance(found, dict) and ({"images", "annotations"} <= found.keys() or "shapes" in found)
    return found if known else None


def coco_outlines(found: Mapping[str, Any], refuse: Callable[[str, str], None]) -> dict[str, Outline]:
    """Outline by file name of each picture of a COCO file.

    Args:
        found: The JSON.
        refuse: Called with what is wrong (an annotation, an image) and why, for everything that cannot be used.
    """
    records = {key: _records(found, key, refuse) for key in ("categories", "images", "annotations")}
    if not all(records.values()):
        return {}
    categories = {category.get("id") for category in records["categories"]}
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    pictures: dict[str, Mapping[str, Any]] = {}
    for image in records["images"]:
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "id" not in image:
            refuse(f"image {image.get('id')}", "has no id or no file_name. Correct it.")
        elif image["id"] in by_image or name in pictures:
            refuse(f"image {image['id']}", f"({name}) is listed twice. Keep one.")
        else:
            by_image[image["id"]], pictures[name] = [], image
    for annotation in records["annotations"]:
        fault = _annotation_fault(annotation, by_image.keys(), categories)
        if fault:
            refuse(f"annotation {annotation.get('id')}", fault)
        else:
            by_image[annotation["image_id"]].append(annotation)
    for name, image in pictures.items():
        if not by_image[image["id"]]:
            refuse(f"image {image['id']}", f"({name}) has no annotation. Outline its chromosomes, or take it out.")
    annotated = {name: image for name, image in pictures.items() if by_image[image["id"]]}
    return {name: _coco_outline(image, by_image[image["id"]]) for name, image in annotated.items()}


def _records(found: Mapping[str, Any], key: str, refuse: Callable[[str, str], None]) -> Sequence[Mapping[str, Any]]:
    records = found.get(key)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records) or not records:
        refuse(key, f"is empty or not a list of records; COCO has images, annotations and categories. Add the {key}.")
        return []
    return records


def _annotation_fault(annotation: Mapping[str, Any], images: Any, categories: Any) -> str | None:
    if annotation.get("image_id") not in images:
        return f"belongs to image {annotation.get('image_id')}, which is not listed. Add the image, or take it out."
    if annotation.get("category_id") not in categories:
        return f"has category {annotation.get('category_id')}, which is not listed. Add it to the categories."
    if annotation.get("iscrowd"):
        return "is marked as a crowd, several objects in one outline. Outline each; if it is one, set iscrowd to 0."
    if not annotation.get("segmentation"):
        return "has no outline (segmentation is empty). Outline the chromosome, or take it out."
    return None


def _coco_outline(image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> Outline:
    def outline(shape: Shape) -> Outlined:
        listed = image.get("height", shape[0]), image.get("width", shape[1])
        if listed != shape:
            raise UsageError(f"is listed as {listed[1]} x {listed[0]} pixels. Annotate this very picture.")
        return outlined_bodies([_coco_body(annotation, shape) for annotation in annotations], shape)

    return outline


def _coco_body(annotation: Mapping[str, Any], shape: Shape) -> tuple[Box, Mask]:
    name, segmentation = f"annotation {annotation.get('id')}", annotation["segmentation"]
    if isinstance(segmentation, dict):
        return _body(_run_lengths(segmentation, shape, name), name)
    return _body(_filled(segmentation, shape, name), name)


def _run_lengths(segmentation: Mapping[str, Any], shape: Shape, name: str) -> Mask:
    from pycocotools import mask as coco

    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or tuple(size) != shape:
        raise UsageError(f"has {name} with run lengths of size {size}, the picture has {[*shape]}. Export it again.")
    try:
        if isinstance(counts, list):
            if sum(counts) != math.prod(shape) or min(counts) < 0:
                raise ValueError(f"they cover {sum(counts)} pixels")
            packed = coco.frPyObjects(segmentation, *shape)
        else:
            packed = {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}
        mask: Mask = coco.decode(packed).astype(bool)
        return mask
    except Exception as error:  # pycocotools raises several types
        raise UsageError(f"has {name} whose run lengths are damaged: {error}. Export it again.") from None


def labelme_outlines(found: Mapping[str, Any], refuse: Callable[[str, str], None]) -> dict[str, Outline]:
    """Outline by file name of the one picture of a LabelMe file; arguments as :func:`coco_outlines`.

    Shapes that share a label and a ``group_id`` are parts of one chromosome.
    """
    name = PureWindowsPath(str(found.get("imagePath") or "")).as_posix()
    groups: dict[Any, list[list[float]]] = {}
    shapes = found.get("shapes")
    if not isinstance(shapes, list) or not shapes:
        refuse("shapes", "is empty: no chromosome is outlined. Outline them, or take the file out.")
        return {}
    if not name or name == ".":
        refuse("imagePath", "is empty, so its picture is unknown. Save it again from LabelMe.")
        return {}
    for number, shape in enumerate(shapes, 1):
        kind = shape.get("shape_type", "polygon")
        if kind != "polygon":
            refuse(f"shape {number}", f"is a {kind}; allowed are polygons. Outline the chromosome.")
            continue
        group = shape.get("group_id")
        key = number if group is None else (shape.get("label"), group)
        groups.setdefault(key, []).append([value for point in shape.get("points", ()) for value in point])

    def outline(shape: Shape) -> Outlined:
        listed = found.get("imageHeight") or shape[0], found.get("imageWidth") or shape[1]
        if listed != shape:
            raise UsageError(f"is listed as {listed[1]} x {listed[0]} pixels. Annotate this very picture.")
        bodies = [_body(_filled(parts, shape, f"shape {key}"), f"shape {key}") for key, parts in groups.items()]
        return outlined_bodies(bodies, shape)

    return {name: outline} if groups else {}


def _filled(polygons: Any, shape: Shape, name: str) -> Mask:
    """Pixels of a chromosome of one or more polygons (x, y, x, y, ...)."""
    from pycocotools import mask as coco

    if not isinstance(polygons, list):
        raise UsageError(f"has {name} with an outline that is neither polygons nor run lengths. Export it again.")
    for polygon in polygons:
        _check_polygon(polygon, shape, name)
    mask: Mask = coco.decode(coco.merge(coco.frPyObjects(polygons, *shape))).astype(bool)
    return mask


def _check_polygon(polygon: Any, shape: Shape, name: str) -> None:
    from shapely import Polygon, make_valid

    try:
        points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    except (TypeError, ValueError):
        raise UsageError(f"has {name} whose outline is not a list of x, y, x, y. Export it again.") from None
    if len(points) < 3 or not np.isfinite(points).all():
        raise UsageError(f"has {name} with an outline of {len(points)} points; allowed are 3 and more. Correct it.")
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < -_OUTSIDE).any() or (high > np.array(shape[::-1]) + _OUTSIDE).any():
        x, y = points[np.argmax(np.maximum(-points, points - np.array(shape[::-1])).max(axis=1))]
        raise UsageError(
            f"has {name} that leaves the picture at ({x:g}, {y:g}); it is {shape[1]} x {shape[0]} pixels. "
            "Annotate this very picture."
        )
    drawn = Polygon(points)
    if not drawn.is_valid and abs(make_valid(drawn).area - drawn.area) > _LOOPS * drawn.area:
        x, y = _crossing(drawn)
        raise UsageError(f"has {name} whose outline crosses itself near ({x:.0f}, {y:.0f}). Draw it again.")


def _crossing(drawn: Any) -> tuple[float, float]:
    from shapely.validation import explain_validity

    inside = explain_validity(drawn).rpartition("[")[2].rstrip("]").split()
    return float(inside[0]), float(inside[1])


def _body(mask: Mask, name: str) -> tuple[Box, Mask]:
    if not mask.any():
        raise UsageError(f"has {name} that covers no pixel. Draw it again, or take it out.")
    return _cut_out(mask)


def _cut_out(mask: Mask) -> tuple[Box, Mask]:
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return box, mask[box]


def candidates(name: str, beside: str) -> list[str]:
    """Where a picture named in an annotation file may lie: beside that file, or from the root of the source."""
    return [normpath(f"/{PurePosixPath(beside).parent / name}")[1:], PurePosixPath(name).as_posix()]
