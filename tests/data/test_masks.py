"""Pictures with masks: all formats give the same crops and types, the rule of docs/masks.md; bad input is named."""

import base64
import csv
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from skimage.draw import polygon as filled

from supcam.cli.app import main
from supcam.cluster_type import ClusterType
from supcam.data.importers import ImportRefused, ImportReport, import_sources
from supcam.data.manifest import read_manifest
from supcam.data.mask_clusters import Classes, cluster_of_classes, left_out, regions_of, width_factor
from supcam.data.mask_files import read_label_map
from supcam.data.mask_rule import Cluster, Overlap, contact_lengths, judge
from supcam.errors import UsageError
from supcam.serving.images import read_crop
from tests.support.drawing import encode

SHAPE = (120, 160)
# Corners (x, y) of bars 10 wide: a single one, two side by side, a cross, and a cross with a third beside it.
SINGLE = [[(10, 10), (20, 10), (20, 50), (10, 50)]]
TOUCHING = [[(40, 10), (50, 10), (50, 50), (40, 50)], [(51, 20), (61, 20), (61, 60), (51, 60)]]
CROSS = [[(100, 10), (110, 10), (110, 60), (100, 60)], [(85, 28), (125, 28), (125, 38), (85, 38)]]
BOTH = [
    [(30, 70), (40, 70), (40, 115), (30, 115)],
    [(15, 85), (60, 85), (60, 95), (15, 95)],
    [(61, 80), (71, 80), (71, 112), (61, 112)],
]
SCENE = [*SINGLE, *TOUCHING, *CROSS, *BOTH]
TYPES = {"instance": 1, "touching": 1, "overlapping": 1, "touching-overlapping": 1}

Map = NDArray[np.uint8]


def bodies(scene: list[list[tuple[int, int]]] = SCENE) -> list[NDArray[np.bool_]]:
    masks = []
    for corners in scene:
        mask = np.zeros(SHAPE, dtype=bool)
        columns, rows = np.array(corners).T
        mask[filled(rows, columns, SHAPE)] = True
        masks.append(mask)
    return masks


def picture(dark_paper: bool = False) -> Map:
    """The scene photographed: banded bodies with a soft edge on grained paper."""
    inside = np.any(bodies(), axis=0)
    rng = np.random.default_rng(3)
    grey = np.where(inside, 90 + 25 * np.sin(np.arange(SHAPE[0]) / 3)[:, np.newaxis], 228.0)
    padded = np.pad(grey, 1, mode="edge")
    soft = sum(padded[1 + y : 1 + y + SHAPE[0], 1 + x : 1 + x + SHAPE[1]] for y in (-1, 0, 1) for x in (-1, 0, 1)) / 9
    grained = np.clip(soft + rng.normal(0, 1.2, SHAPE), 0, 255)
    return np.rint(255 - grained if dark_paper else grained).astype(np.uint8)


def label_map() -> Map:
    values = np.zeros(SHAPE, dtype=np.uint8)
    for number, mask in enumerate(bodies(), 1):
        values[mask] = np.where(values[mask] == 0, number, 255)
    return values


def with_map(root: Path, content: bytes, suffix: str = ".png", name: str = "labels/slide.cell 1") -> None:
    (root / "images").mkdir(parents=True)
    (root / "images" / "slide.cell 1.tif").write_bytes(encode(picture(), "TIFF"))
    target = root / f"{name}{suffix}"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)


def as_map(root: Path) -> None:
    with_map(root, encode(label_map()))


def as_palette(root: Path) -> None:
    image = Image.fromarray(label_map(), "L").convert("P")
    image.putdata(label_map().ravel().tolist())
    image.putpalette([(37 * index) % 256 for index in range(768)])
    with_map(root, encode(image))


def as_deep_map(root: Path) -> None:
    values = label_map().astype(np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.where((values > 0) & (values < 255), 300 * values, values))
    with_map(root, stream.getvalue(), ".tif", "images/slide.cell 1_mask")


def as_stack(root: Path) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, 255 * np.stack(bodies()).astype(np.uint8), photometric="minisblack")
    with_map(root, stream.getvalue(), ".tif")


def coco_file(segmentations: list[Any], **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "slide.cell 1.tif", "height": SHAPE[0], "width": SHAPE[1]}],
        "categories": [{"id": 1, "name": "chromosome"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
            for number, segmentation in enumerate(segmentations, 1)
        ],
    } | changes


def with_json(root: Path, found: Any, name: str = "images/annotations.json") -> None:
    (root / "images").mkdir(parents=True)
    (root / "images" / "slide.cell 1.tif").write_bytes(encode(picture(), "TIFF"))
    (root / name).write_text(found if isinstance(found, str) else json.dumps(found))


def outlines() -> list[list[list[float]]]:
    """COCO's polygons of the scene: a pixel's corner is at its index, so the far sides lie one further."""
    return [[[float(value) for x, y in corners for value in _far(corners, x, y)]] for corners in SCENE]


def _far(corners: list[tuple[int, int]], x: int, y: int) -> tuple[int, int]:
    return x + (x == max(c[0] for c in corners)), y + (y == max(c[1] for c in corners))


def as_polygons(root: Path) -> None:
    with_json(root, coco_file(outlines()))


def as_run_lengths(root: Path) -> None:
    runs = []
    for mask in bodies():
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs.append({"size": [*SHAPE], "counts": np.diff([0, *edges, flat.size]).tolist()})
    with_json(root, coco_file(runs), "coco.json")


def as_packed_run_lengths(root: Path) -> None:
    packed = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in bodies()]
    with_json(root, coco_file([{"size": [*SHAPE], "counts": runs["counts"].decode()} for runs in packed]))


def labelme_file(**changes: Any) -> dict[str, Any]:
    shapes = [
        {"label": "chromosome", "points": np.reshape(polygons[0], (-1, 2)).tolist(), "shape_type": "polygon"}
        for polygons in outlines()
    ]
    return {
        "version": "5.0.1", "shapes": shapes, "imagePath": "..\\images\\slide.cell 1.tif",
        "imageData": base64.b64encode(b"left out").decode(), "imageHeight": SHAPE[0], "imageWidth": SHAPE[1],
    } | changes  # fmt: skip


def as_labelme(root: Path) -> None:
    with_json(root, labelme_file(), "images/slide.cell 1.json")


FORMATS = (
    as_map, as_palette, as_deep_map, as_stack, as_polygons, as_run_lengths, as_packed_run_lengths, as_labelme,
)  # fmt: skip


def brought_in(root: Path, into: Path, **options: Any) -> ImportReport:
    return import_sources([root], into, masks=True, **options)


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_crops(write: Callable[[Path], None], tmp_path: Path) -> None:
    as_map(tmp_path / "expected" / "lab")
    write(tmp_path / "given" / "lab")
    expected = brought_in(tmp_path / "expected" / "lab", tmp_path / "one")
    report = brought_in(tmp_path / "given" / "lab", tmp_path / "two")
    assert expected.types == report.types == TYPES
    assert report.manifest_hash == expected.manifest_hash
    frame = read_manifest(tmp_path / "two" / "manifest.csv")
    assert set(frame["case_id"]) == set(frame["picture"]) == {"images/slide.cell 1"}
    assert sorted(zip(frame["type"], frame["n_chromosomes"], frame["label_certain"], strict=True)) == [
        ("instance", "1", True), ("overlapping", "2", True), ("touching", "2", True),
        ("touching-overlapping", "3", True),
    ]  # fmt: skip


def test_a_zip_gives_the_same_crops_as_its_folder(tmp_path: Path) -> None:
    as_polygons(tmp_path / "lab")
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "lab.zip", "w") as file:
        for path in (tmp_path / "lab").rglob("*.*"):
            file.write(path, path.relative_to(tmp_path / "lab"))
    folder = brought_in(tmp_path / "lab", tmp_path / "one")
    packed = brought_in(tmp_path / "zipped" / "lab.zip", tmp_path / "two")
    named = brought_in(tmp_path / "lab" / "images" / "annotations.json", tmp_path / "three")
    assert packed.manifest_hash == folder.manifest_hash
    assert named.types == folder.types


class _NamedInGbk(zipfile.ZipInfo):
    """An entry whose name is written as Windows in Chinese writes it, without the flag that says UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("gbk"), 0


def test_names_in_a_zip_are_read_as_those_of_any_import(tmp_path: Path) -> None:
    as_map(tmp_path / "lab")
    with zipfile.ZipFile(tmp_path / "lab.zip", "w") as file:
        for path in (tmp_path / "lab").rglob("*.*"):
            file.writestr(_NamedInGbk(f"病例/{path.relative_to(tmp_path / 'lab')}"), path.read_bytes())
    found = brought_in(tmp_path / "lab.zip", tmp_path / "found")
    assert any("lab.zip are read as gbk" in text for text in found.warnings)
    given = brought_in(tmp_path / "lab.zip", tmp_path / "given", encoding="gbk")
    assert given.manifest_hash == found.manifest_hash
    assert set(read_manifest(tmp_path / "given" / "manifest.csv")["picture"]) == {"病例/images/slide.cell 1"}
    with pytest.raises(UsageError, match="--encoding 'ascii' cannot read the name"):
        brought_in(tmp_path / "lab.zip", tmp_path / "wrong", encoding="ascii")


@pytest.mark.parametrize("name", [".lab", "=lab", "-lab"])
def test_a_source_whose_name_cannot_name_crops_is_refused(name: str, tmp_path: Path) -> None:
    as_map(tmp_path / name)
    with pytest.raises(UsageError, match="cannot name crops"):
        brought_in(tmp_path / name, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_crops_are_clean_and_the_same_from_bright_and_from_dark_paper(tmp_path: Path) -> None:
    for name, dark in (("bright", False), ("dark", True)):
        as_map(tmp_path / name / "lab")
        (tmp_path / name / "lab" / "images" / "slide.cell 1.tif").write_bytes(encode(picture(dark), "TIFF"))
        brought_in(tmp_path / name / "lab", tmp_path / f"{name} data")
    for path in (tmp_path / "bright data").rglob("*.png"):
        crop = np.asarray(Image.open(path)).astype(int)
        other = np.asarray(Image.open(tmp_path / "dark data" / path.relative_to(tmp_path / "bright data"))).astype(int)
        assert np.abs(crop - other).max() <= 3
        assert crop[0].min() == crop[:, 0].min() == 255
        assert crop.min() < 110
        reading = read_crop(path)
        assert not reading.notes
        assert np.array_equal(reading.image, crop)


def test_cases_come_from_the_pattern(tmp_path: Path) -> None:
    as_map(tmp_path / "lab")
    brought_in(tmp_path / "lab", tmp_path / "data", case_pattern="images/(?P<case>[a-z]+)")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert set(frame["case_id"]) == {"slide"}


def test_what_is_no_crop_is_left_out_and_counted(tmp_path: Path) -> None:
    values = label_map()
    values[60:64, 0:30] = 9  # reaches the left edge
    values[110, 150] = 10
    values[5:8, 140:150] = 255
    with_map(tmp_path / "lab", encode(values))
    report = brought_in(tmp_path / "lab", tmp_path / "data")
    assert report.types == TYPES
    assert report.ignored == {
        "objects cut off by an edge of the picture": 1, "specks in the masks": 1, "overlaps without a chromosome": 1
    }  # fmt: skip


def test_adding_and_repeating_follow_the_rules_of_import(tmp_path: Path) -> None:
    as_map(tmp_path / "lab")
    brought_in(tmp_path / "lab", tmp_path / "data")
    again = brought_in(tmp_path / "lab", tmp_path / "data")
    assert (again.added, again.unchanged) == (0, 4)


# --- the rule ---


def at(contact: int = 0, overlap: tuple[int, float] | None = None, factor: int = 1) -> tuple[str, bool]:
    overlaps = (Overlap(*overlap, frozenset({1, 2})),) if overlap else ()
    verdict = judge(Cluster((1, 2), {(1, 2): contact} if contact else {}, overlaps, {}), factor)
    return verdict.type.label, verdict.certain


@pytest.mark.parametrize(
    ("contact", "expected"),
    [(1, ("touching", False)), (2, ("touching", False)), (3, ("touching", False)), (4, ("touching", False)),
     (5, ("touching", True)), (30, ("touching", True))],
)  # fmt: skip
def test_a_label_is_certain_from_a_contact_of_five_pixels_on(contact: int, expected: tuple[str, bool]) -> None:
    assert at(contact) == expected


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [((5, 1.0), ("touching", True)), ((6, 1.0), ("touching", False)), ((14, 2.0), ("touching", False)),
     ((15, 1.9), ("touching", False)), ((15, 2.0), ("overlapping", False)), ((29, 2.5), ("overlapping", False)),
     ((30, 2.4), ("overlapping", False)), ((30, 2.5), ("overlapping", True)), ((200, 6.0), ("overlapping", True))],
)  # fmt: skip
def test_an_overlap_counts_from_its_area_and_thickness_on(
    overlap: tuple[int, float], expected: tuple[str, bool]
) -> None:
    assert at(10, overlap) == expected


def test_thresholds_grow_with_the_width_of_the_chromosomes() -> None:
    assert at(6) == ("touching", True)
    assert at(6, factor=2) == ("touching", False)
    assert at(10, (60, 4.0)) == ("overlapping", True)
    assert at(10, (60, 4.0), factor=2) == ("overlapping", False)


def test_a_pair_that_overlaps_does_not_touch_as_well_but_a_third_does() -> None:
    overlap = Overlap(100, 5.0, frozenset({1, 2}))
    pair = judge(Cluster((1, 2), {(1, 2): 12}, (overlap,), {}))
    three = judge(Cluster((1, 2, 3), {(1, 2): 12, (2, 3): 9}, (overlap,), {}))
    assert (pair.type, pair.certain, pair.count) == (ClusterType.OVERLAPPING, True, 2)
    assert (three.type, three.certain, three.count) == (ClusterType.TOUCHING_OVERLAPPING, True, 3)


def test_a_third_that_hardly_touches_makes_the_label_uncertain() -> None:
    verdict = judge(Cluster((1, 2, 3), {(1, 2): 12, (2, 3): 2}, (), {}))
    assert (verdict.type, verdict.certain) == (ClusterType.TOUCHING, False)


def test_contact_is_counted_by_loops_as_well() -> None:
    owners = np.random.default_rng(0).integers(0, 4, (17, 23)).astype(np.int32)
    expected: dict[tuple[int, int], int] = {}
    for one, two in ((1, 2), (1, 3), (2, 3)):
        sides = []
        for own, other in ((one, two), (two, one)):
            count = 0
            for row, column in np.argwhere(owners == own):
                near = owners[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                count += bool((near == other).any())
            sides.append(count)
        expected[one, two] = min(sides)
    assert contact_lengths(owners) == expected


def classes_of(maps: dict[str, Map]) -> dict[str, list[tuple[str, bool, int]]]:
    classes, seen = Classes(), {}
    for name, values in maps.items():
        outlined = read_label_map(encode(values), 255)
        seen[name] = regions_of(outlined.owners)
        classes.add(name, seen[name], values.shape)
    assert classes.name_classes()
    usual = classes.usual_areas()
    found = {}
    for name, regions in seen.items():
        clusters = [cluster_of_classes(region, classes.totals[name], usual[name]) for region in regions]
        verdicts = [judge(cluster) for cluster in clusters]
        found[name] = [(verdict.type.label, verdict.certain, verdict.count) for verdict in verdicts]
    return found


def karyotype(*, apart: bool = True) -> Map:
    """Three classes, both homologues of each apart: heights 40, 30, 20."""
    values = np.zeros((120, 160), dtype=np.uint8)
    for number, height in enumerate((40, 30, 20), 1):
        for copy in range(2 if apart or number > 1 else 0):
            values[5 : 5 + height, 20 * number + 70 * copy : 20 * number + 70 * copy + 8] = number
    return values


def test_homologues_that_touch_are_two_chromosomes_by_their_area() -> None:
    together = karyotype(apart=False)
    together[60:100, 20:28] = 1
    together[60:100, 28:36] = 1
    found = classes_of({"a": karyotype(), "b": karyotype(), "c": together})
    assert found["a"] == [("instance", True, 1)] * 6
    assert sorted(found["c"]) == [*[("instance", True, 1)] * 4, ("touching", True, 2)]


def test_a_doubtful_area_makes_the_label_uncertain() -> None:
    together = karyotype(apart=False)
    together[55:119, 20:28] = 1  # 1.6 times as long as one
    found = classes_of({"a": karyotype(), "b": karyotype(), "c": together})
    assert sorted(found["c"]) == [("instance", False, 1), *[("instance", True, 1)] * 4]


def test_a_large_chromosome_is_one_while_its_homologue_is_elsewhere() -> None:
    large = karyotype()
    large[5:80, 20:28] = 1
    assert classes_of({"a": karyotype(), "b": karyotype(), "c": large})["c"] == [("instance", True, 1)] * 6


def test_homologues_that_cross_overlap_and_arms_across_an_overlap_are_one() -> None:
    crossed = karyotype(apart=False)
    crossed[52:96, 30:38] = 1
    crossed[70:78, 12:56] = 1
    crossed[70:78, 30:38] = 255
    arms = karyotype(apart=False)
    arms[60:100, 30:38] = 1
    arms[76:84, 14:54] = 2
    arms[76:84, 30:38] = 255
    found = classes_of({"a": karyotype(), "b": karyotype(), "c": crossed, "d": arms})
    assert [verdict for verdict in found["c"] if verdict[2] > 1] == [("overlapping", True, 2)]
    assert [verdict for verdict in found["d"] if verdict[2] > 1] == [("overlapping", True, 2)]


def test_both_homologues_in_one_cluster_are_counted() -> None:
    cluster = karyotype(apart=False)
    cluster[60:100, 20:28] = 1
    cluster[100:108, 20:50] = 9
    cluster[60:100, 42:50] = 1
    found = classes_of({"a": karyotype(), "b": karyotype(), "c": cluster})
    assert ("touching", True, 3) in found["c"]


# --- bad input ---


def broken_map(values: Any, kind: str = "PNG", suffix: str = ".png") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        stream = io.BytesIO()
        if kind == "TIFF":
            tifffile.imwrite(stream, values)
        else:
            Image.fromarray(values).save(stream, kind)
        with_map(root, stream.getvalue(), suffix)

    return write


def broken_coco(**changes: Any) -> Callable[[Path], None]:
    return lambda root: with_json(root, coco_file(outlines()) | changes)


def broken_annotation(**changes: Any) -> Callable[[Path], None]:
    found = coco_file(outlines())
    found["annotations"][1] |= changes
    return lambda root: with_json(root, found)


def broken_labelme(**changes: Any) -> Callable[[Path], None]:
    return lambda root: with_json(root, labelme_file(**changes), "images/slide.cell 1.json")


def alone(root: Path) -> None:
    as_map(root)
    (root / "images" / "other.png").write_bytes(encode(picture()))


def orphan(root: Path) -> None:
    as_map(root)
    (root / "labels" / "other.png").write_bytes(encode(label_map()))


def of_another_picture(root: Path) -> None:
    as_map(root)
    other = np.full(SHAPE, 228, dtype=np.uint8)
    other[62:68, 90:150] = 90
    (root / "images" / "slide.cell 1.tif").write_bytes(encode(other, "TIFF"))


def photograph() -> NDArray[np.uint16]:
    return np.random.default_rng(1).integers(0, 4000, SHAPE).astype(np.uint16)


def half() -> NDArray[np.float32]:
    return label_map().astype(np.float32) / 2


def coloured() -> Map:
    return np.stack([label_map(), 255 - label_map(), label_map()], axis=-1)


BOW_TIE = [[10.0, 10, 60, 60, 60, 10, 10, 60]]
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "other size": (broken_map(label_map()[:-1]), "is 160 x 119 pixels, its picture 160 x 120"),
    "JPEG": (broken_map(label_map(), "JPEG", ".jpg"), "is JPEG, which does not keep exact values"),
    "JPEG named PNG": (broken_map(label_map(), "JPEG"), "is JPEG, which does not keep exact values"),
    "a photograph": (broken_map(photograph(), "TIFF", ".tif"), r"holds \d+ values; labels of chromosomes are at most"),
    "fractions": (broken_map(half(), "TIFF", ".tif"), "holds fractions such as 0.5"),
    "negative": (broken_map(label_map().astype(np.int16) - 1, "TIFF", ".tif"), "holds the value -1"),
    "colours": (broken_map(coloured()), "is a picture in colours, not numbers"),
    "binary": (broken_map(255 * (label_map() > 0).astype(np.uint8)), "does not separate chromosomes"),
    "nothing marked": (broken_map(0 * label_map()), "marks no chromosome"),
    "not an image": (lambda root: with_map(root, b"no image"), "cannot be read"),
    "picture without a map": (alone, "has no masks"),
    "map without a picture": (orphan, "is a label map without its picture"),
    "map of another picture": (of_another_picture, "where the picture shows none"),
    "no categories": (broken_coco(categories=[]), "categories is empty"),
    "unknown category": (broken_annotation(category_id=5), "annotation 2 has category 5, which is not listed"),
    "crowd": (broken_annotation(iscrowd=1), "annotation 2 is marked as a crowd"),
    "unknown image": (broken_annotation(image_id=99), "annotation 2 belongs to image 99, which is not listed"),
    "missing picture": (
        broken_coco(images=[{"id": 7, "file_name": "gone.tif"}]), "gone.tif is not in the source",
    ),
    "image without annotations": (
        broken_coco(images=[*coco_file([])["images"], {"id": 8, "file_name": "b.tif"}]), "image 8 .b.tif. has no annot",
    ),
    "image listed twice": (broken_coco(images=2 * coco_file([])["images"]), "image 7 .* is listed twice"),
    "other size in COCO": (
        broken_coco(images=[{"id": 7, "file_name": "slide.cell 1.tif", "height": 9, "width": 9}]), "listed as 9 x 9",
    ),
    "outside": (broken_annotation(segmentation=[[10, 10, 300, 10, 300, 60]]), r"leaves the picture at \(300, "),
    "crosses itself": (broken_annotation(segmentation=BOW_TIE), r"crosses itself near \(35, 35\)"),
    "two points": (broken_annotation(segmentation=[[1, 1, 2, 2]]), "outline of 2 points"),
    "odd numbers": (broken_annotation(segmentation=[[1, 1, 2, 2, 3]]), "not a list of x, y, x, y"),
    "no outline": (broken_annotation(segmentation=[]), "annotation 2 has no outline"),
    "an outline of no pixel": (broken_annotation(segmentation=[[5, 5, 5, 5, 5, 5]]), "covers no pixel"),
    "run lengths of another size": (
        broken_annotation(segmentation={"size": [9, 9], "counts": [81]}), r"run lengths of size \[9, 9\]",
    ),
    "run lengths too short": (
        broken_annotation(segmentation={"size": [*SHAPE], "counts": [5, 5]}), "run lengths are damaged",
    ),
    "packed run lengths damaged": (
        broken_annotation(segmentation={"size": [*SHAPE], "counts": "zz9PK"}), "run lengths are damaged",
    ),
    "no records": (broken_coco(annotations={"a": 1}), "annotations is empty or not a list"),
    "not JSON": (lambda root: with_json(root, "{"), "is not readable JSON"),
    "no shapes": (broken_labelme(shapes=[]), "shapes is empty"),
    "a rectangle": (
        broken_labelme(shapes=[{"points": [[1, 1], [9, 9]], "shape_type": "rectangle"}]), "shape 1 is a rectangle",
    ),
    "missing picture in LabelMe": (broken_labelme(imagePath="gone.tif"), "gone.tif is not in the source"),
    "shapes of another form": (broken_labelme(shapes=["polygon"]), "records of another form"),
    "points of another form": (
        broken_labelme(shapes=[{"points": [1, 2], "shape_type": "polygon"}]), "records of another form",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    write, message = BAD[name]
    write(tmp_path / "lab")
    with pytest.raises(ImportRefused, match=message) as caught:
        brought_in(tmp_path / "lab", tmp_path / "data")
    assert len(str(caught.value).splitlines()) == 2  # how many, and the one that is wrong
    assert not (tmp_path / "data").exists()


def test_each_bad_annotation_is_named(tmp_path: Path) -> None:
    found = coco_file(outlines())
    found["annotations"][0]["iscrowd"] = 1
    found["annotations"][3]["image_id"] = 99
    with_json(tmp_path / "lab", found)
    with pytest.raises(ImportRefused) as caught:
        brought_in(tmp_path / "lab", tmp_path / "data")
    assert sorted(caught.value.refused) == [
        "lab/images/annotations.json: annotation 1", "lab/images/annotations.json: annotation 4"
    ]  # fmt: skip


def test_a_picture_annotated_twice_is_refused(tmp_path: Path) -> None:
    with_json(tmp_path / "lab", coco_file(outlines()))
    shutil.copy(tmp_path / "lab" / "images" / "annotations.json", tmp_path / "lab" / "images" / "again.json")
    with pytest.raises(ImportRefused, match=r"annotated twice.*again\.json"):
        brought_in(tmp_path / "lab", tmp_path / "data")


def test_a_small_loop_of_an_outline_does_no_harm(tmp_path: Path) -> None:
    found = coco_file(outlines())
    found["annotations"][0]["segmentation"][0][:2] = [10.5, 9.5]
    found["annotations"][0]["segmentation"][0] += [10.0, 51, 9.5, 10, 10.5, 9.8]
    with_json(tmp_path / "lab", found)
    assert brought_in(tmp_path / "lab", tmp_path / "data").types == TYPES


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    with pytest.raises(UsageError, match="holds no picture with masks"):
        brought_in(tmp_path / "lab", tmp_path / "data")
    with pytest.raises(UsageError, match="does not exist"):
        brought_in(tmp_path / "gone", tmp_path / "data")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    values = label_map()
    with_map(tmp_path / "lab", encode(np.where(values == 255, 100, values)))
    command = ["supcam", "import", str(tmp_path / "lab"), "--masks", "--overlap-value", "100", "--into"]
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "data")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "1 touching-overlapping" in capsys.readouterr().out
    (tmp_path / "lab" / "labels" / "slide.cell 1.png").write_bytes(encode(values[1:]))
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "other")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert not (tmp_path / "other").exists()


# --- real metaphases ---


@pytest.fixture(scope="module")
def metaphases(shared_data: Path) -> Path:
    folder = shared_data.parent / "metaphases"
    if not folder.is_dir():
        pytest.skip(f"whole metaphases are not beside this checkout: {folder} does not exist")
    return folder


def test_the_rule_agrees_with_the_labels_of_all_slides(metaphases: Path, shared_data: Path) -> None:
    with (shared_data / "mfish-slides" / "labels.csv").open(newline="") as file:
        labels = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    classes, seen = Classes(), {}
    for path in sorted((metaphases / "labels").iterdir()):
        outlined = read_label_map(path.read_bytes(), 255)
        seen[path.stem] = regions_of(outlined.owners)
        classes.add(path.stem, seen[path.stem], outlined.owners.shape)
    usual, same, certain = classes.usual_areas(), [], []
    for cell, regions in seen.items():
        factor = width_factor(regions)
        for region in regions:
            row = labels.get(f"{cell}_{region.number:03d}")
            if row is None or row["label_certain"] == "no":
                continue
            assert left_out(region, regions, (517, 645)) is None
            verdict = judge(cluster_of_classes(region, classes.totals[cell], usual[cell]), factor)
            same.append((row["type"] != "instance", verdict.type.label == row["type"]))
            certain.append(verdict.certain)
    clusters, right = np.array(same).T
    assert len(same) == 4008
    assert right.mean() >= 0.995
    assert right[clusters].mean() >= 0.985
    assert np.mean(certain) >= 0.99


def test_real_crops_have_the_place_and_shape_of_the_shared_ones(
    metaphases: Path, shared_data: Path, tmp_path: Path
) -> None:
    cells = ("A0101XY", "V290463")
    for folder, suffix in (("images", ".tif"), ("labels", ".png")):
        (tmp_path / "lab" / folder).mkdir(parents=True)
        for cell in cells:
            shutil.copy(metaphases / folder / f"{cell}{suffix}", tmp_path / "lab" / folder)
    report = brought_in(tmp_path / "lab", tmp_path / "data", case_pattern="images/(?P<case>...)")
    frame = read_manifest(tmp_path / "data" / "manifest.csv").set_index("crop_id")
    assert set(frame["case_id"]) == {"A01", "V29"}
    assert not report.notes
    with (shared_data / "mfish-slides" / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["cell"] in cells]
    assert len(rows) > 60
    for row in rows:
        shared = np.asarray(Image.open(shared_data / "mfish-slides" / row["path"]))
        crop = np.asarray(Image.open(tmp_path / "data" / f"crops/lab/images/{Path(row['path']).name}"))
        assert crop.shape == shared.shape
        assert np.corrcoef(crop.ravel(), shared.ravel())[0, 1] > 0.97
