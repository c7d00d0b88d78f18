"""The command writes what other programs read, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import supcam
from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.metaphase import folder as folder_module
from supcam.metaphase.exchange import Coco, geojson
from supcam.metaphase.folder import write_metaphases
from supcam.metaphase.metaphase import Metaphase
from supcam.registry.client import Predictor
from tests.support.metaphases import draw_metaphase


@pytest.fixture(scope="module")
def metaphase(predictor: Predictor) -> Metaphase:
    return supcam.Metaphase(draw_metaphase(11).picture, predictor)


def test_every_object_has_a_type_or_a_reason(metaphase: Metaphase) -> None:
    table = metaphase.objects
    typed = table[table["type"] != ""]
    assert set(typed["type"]) <= set(TYPE_LABELS)
    assert typed["confidence"].between(0.25, 1).all()
    assert (typed.loc[typed["needs_review"], "reason"] != "").all()
    rest = table[table["type"] == ""]
    assert (rest["reason"] != "").all()
    assert not rest["needs_review"].any()
    assert rest["confidence"].isna().all()
    assert sorted(metaphase.crops) == sorted(typed["object"])
    for row, thing in zip(table.itertuples(), metaphase.things, strict=True):
        assert (row.height, row.width) == thing.mask.shape
        assert row.area == thing.mask.sum()
    assert metaphase.counts["nuclei"] == 2


def test_coco_gives_the_same_masks(metaphase: Metaphase, tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    content = Coco()
    content.add("cell.png", metaphase)
    (tmp_path / "coco.json").write_text(json.dumps(content.content()), encoding="utf-8")
    read = coco_module.COCO(str(tmp_path / "coco.json"))
    typed = metaphase.objects[metaphase.objects["type"] != ""]
    annotations = read.loadAnns(read.getAnnIds())
    assert len(annotations) == len(typed)
    for annotation, row in zip(annotations, typed.itertuples(), strict=True):
        thing = metaphase.things[row.object - 1]
        mask = np.zeros(metaphase.image.shape, dtype=bool)
        mask[thing.box] = thing.mask
        decoded = read.annToMask(annotation).astype(bool)
        assert (decoded & mask).sum() / (decoded | mask).sum() > 0.97
        assert read.loadCats(annotation["category_id"])[0]["name"] == row.type


def test_a_hole_is_kept_in_coco_and_geojson(metaphase: Metaphase) -> None:
    from dataclasses import replace

    from supcam.metaphase.exchange import _geometry, _segmentation

    mask = np.ones((9, 7), dtype=bool)
    mask[3:5, 2:4] = False
    ring = replace(metaphase.things[0], mask=mask, top=5, left=4)
    segmentation = _segmentation(ring, (30, 40))
    assert isinstance(segmentation, dict)
    flat = np.repeat(np.arange(len(segmentation["counts"])) % 2, segmentation["counts"])
    decoded = flat.reshape(40, 30).T
    assert decoded.sum() == mask.sum()
    assert (decoded[5:14, 4:11] == mask).all()
    geometry = _geometry(*ring.rings)
    assert geometry["type"] == "Polygon"
    assert len(geometry["coordinates"]) == 2


def test_geojson_is_closed_rings_inside_the_picture(metaphase: Metaphase) -> None:
    height, width = metaphase.image.shape
    collection = json.loads(json.dumps(geojson(metaphase)))
    assert len(collection["features"]) == len(metaphase.things)
    for feature, thing in zip(collection["features"], metaphase.things, strict=True):
        outline = np.array(feature["geometry"]["coordinates"][0])
        assert (outline[0] == outline[-1]).all()
        assert outline.min() >= 0
        assert (outline.max(axis=0) <= (width, height)).all()
        x, y = outline.T
        area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
        assert area == pytest.approx(thing.mask.sum(), rel=0.12, abs=6)


def test_a_folder_of_pictures(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    Image.fromarray(draw_metaphase(12).picture).save(source / "a [1].png")
    Image.fromarray(draw_metaphase(1, singles=0, pairs=0, nuclei=6).picture).save(source / "nuclei.tif")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (source / "notes.txt").write_text("x", encoding="utf-8")
    into = tmp_path / "out"
    written = write_metaphases(predictor, [source], into)
    pictures = pd.read_csv(into / "pictures.csv", keep_default_na=False)
    assert list(pictures["picture"]) == ["a [1].png", "broken.png", "nuclei.tif"]
    assert written.failed == 1
    assert "broken.png" in pictures["error"][1]
    assert "nuclei only" in pictures["reason"][2]
    objects = pd.read_csv(into / "objects.csv", keep_default_na=False)
    typed = objects[objects["type"] != ""]
    assert len(typed) == pictures["objects"][0]
    for row in typed.itertuples():
        kind = "review" if row.needs_review else row.type
        assert (into / kind / f"a [1]_{row.object:03d}.png").is_file()
    assert len(json.loads((into / "coco.json").read_text(encoding="utf-8"))["annotations"]) == len(typed)
    assert (into / "geojson" / "a [1].geojson").is_file()
    assert Image.open(into / "annotated" / "a [1].png").width >= 1000
    page = (into / "index.html").read_text(encoding="utf-8")
    assert "annotated/a%20%5B1%5D.png" in page
    assert "nuclei only" in page
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(UsageError, match="exists and is not empty"):
        write_metaphases(predictor, [source], into)


def test_nothing_is_left_of_a_run_that_fails(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(draw_metaphase(12).picture).save(tmp_path / "a.png")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "coco.json")

    monkeypatch.setattr(folder_module, "render", full)
    with pytest.raises(OSError, match="No space"):
        write_metaphases(predictor, [tmp_path / "a.png"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_pictures_of_one_name_keep_apart(predictor: Predictor, tmp_path: Path) -> None:
    for suffix, seed in ((".png", 12), (".tif", 13)):
        Image.fromarray(draw_metaphase(seed, singles=12, pairs=0, side=400, nuclei=0).picture).save(
            tmp_path / f"a{suffix}"
        )
    write_metaphases(predictor, [tmp_path / "a.png", tmp_path / "a.tif"], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "annotated").iterdir()} == {"a.png.png", "a.tif.png"}
