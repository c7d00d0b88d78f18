"""The composed set on disk: same bytes on any number of workers, from training crops only, on drawn and real crops."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from supcam.composition.dataset import compose_set
from supcam.composition.masks import EIGHT
from supcam.composition.sources import SourceCrops
from supcam.data.crops import CropSet
from supcam.data.manifest import COLUMNS, read_manifest
from supcam.errors import SupcamError
from supcam.serving.images import decode_crop
from supcam.settings import ComposeSettings
from tests.composition.realism import real_crops
from tests.composition.test_masks import BAD


def training(crops: SourceCrops, **columns: object) -> CropSet:
    frame = pd.DataFrame({"crop_id": crops.frame["crop_id"], "type": "instance", "case_id": crops.groups})
    frame = frame.assign(source="drawn", label_certain=True, split="train", **columns)
    return CropSet(frame, list(crops.images))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_bytes_on_one_and_two_workers(crops: SourceCrops, tmp_path: Path) -> None:
    for workers in (1, 2):
        compose_set(training(crops), ComposeSettings(count=260, workers=workers), tmp_path / str(workers))
    one, two = digest(tmp_path / "1"), digest(tmp_path / "2")
    assert len(one) == 260 + 3
    assert one == two


def test_manifest_holds_parents_relation_and_seed(crops: SourceCrops, tmp_path: Path) -> None:
    report = compose_set(training(crops), ComposeSettings(count=30, seed=5), tmp_path / "out")
    rows = read_manifest(tmp_path / "out" / "manifest.csv")
    assert list(rows.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert report.composed == len(rows) == 30
    assert set(rows["split"]) == {"train"}
    assert set(rows["relation"]) <= {"touch", "overlap", "both"}
    assert set(rows["seed"]) == {"5"}
    known = set(crops.frame["crop_id"])
    for row in rows.itertuples():
        parents = str(row.parents).split(";")
        assert [row.parent_a, row.parent_b] == parents[:2]
        assert set(parents) <= known
        assert {parent.split("-")[0] for parent in parents} == {row.case_id}
        path = tmp_path / "out" / str(row.path)
        assert sha256(path.read_bytes()).hexdigest() == row.sha256
        assert decode_crop(path).shape == (row.height, row.width)
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["composed"] == 30
    assert sum(saved["types"].values()) == 30
    assert Image.open(tmp_path / "out" / "contact_sheet.png").size[0] > 600


def test_masks_are_written_when_asked_for(crops: SourceCrops, tmp_path: Path) -> None:
    compose_set(training(crops), ComposeSettings(count=12), tmp_path / "plain")
    compose_set(training(crops), ComposeSettings(count=12, masks=True), tmp_path / "out")
    assert not (tmp_path / "plain" / "masks").exists()
    assert set(read_manifest(tmp_path / "plain" / "manifest.csv")["mask"]) == {""}
    for row in read_manifest(tmp_path / "out" / "manifest.csv").itertuples():
        crop = np.asarray(Image.open(tmp_path / "out" / str(row.path)))
        assert (crop == np.asarray(Image.open(tmp_path / "plain" / str(row.path)))).all()
        bits = np.asarray(Image.open(tmp_path / "out" / str(row.mask)))
        members = len(str(row.parents).split(";"))
        assert bits.shape == crop.shape
        # Together the sources are the foreground, each source has pixels, and nothing else is marked.
        np.testing.assert_array_equal((bits & 31) > 0, crop < 250)
        assert all((bits & (1 << number)).any() for number in range(members))
        assert not (bits & (31 & ~((1 << members) - 1))).any()
        assert (bits >= 128).any() == (row.relation != "touch")


def test_a_source_of_another_split_is_refused_and_the_old_set_stays(crops: SourceCrops, tmp_path: Path) -> None:
    compose_set(training(crops), ComposeSettings(count=4), tmp_path / "out")
    before = digest(tmp_path / "out")
    leaking = training(crops)
    leaking.frame.loc[3, "split"] = "validation"
    with pytest.raises(SupcamError, match=r"1 sources are not of the training split, first 'case01-0003'"):
        compose_set(leaking, ComposeSettings(count=4), tmp_path / "out")
    assert digest(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_uncertain_parent_makes_an_uncertain_label(crops: SourceCrops, tmp_path: Path) -> None:
    source = training(crops)
    source.frame["label_certain"] = source.frame["crop_id"] != "case01-0000"
    compose_set(source, ComposeSettings(count=60), tmp_path / "out")
    rows = read_manifest(tmp_path / "out" / "manifest.csv")
    doubtful = rows["parents"].str.split(";").map(lambda parents: "case01-0000" in parents)
    assert doubtful.any()
    assert (rows["label_certain"] == ~doubtful).all()


def test_bad_sources_are_skipped_counted_and_printed(crops: SourceCrops, tmp_path: Path) -> None:
    bad = [image for images in BAD.values() for image in images]
    good = training(crops)
    extra = good.frame.iloc[[0] * len(bad)].assign(crop_id=[f"bad{i}" for i in range(len(bad))])
    source = CropSet(pd.concat([good.frame, extra], ignore_index=True), [*good.images, *bad])
    report = compose_set(source, ComposeSettings(count=20), tmp_path / "out")
    assert report.composed == 20
    assert {reason: len(ids) for reason, ids in report.skipped_sources.items()} == {k: len(v) for k, v in BAD.items()}
    assert any(line.startswith("sources skipped: 3 empty, 1 speck") for line in report.lines())
    skipped = {f"skipped_sources/{reason}": len(images) for reason, images in BAD.items()}
    assert skipped.items() <= report.losses().items()
    parents = ";".join(read_manifest(tmp_path / "out" / "manifest.csv")["parents"])
    assert "bad" not in parents


def test_no_source_at_all_gives_an_empty_set_that_says_why(tmp_path: Path) -> None:
    empty = pd.DataFrame(columns=[*COLUMNS, "split"])
    report = compose_set(CropSet(empty, []), ComposeSettings(count=5), tmp_path / "out")
    assert report.composed == 0
    assert report.skipped_composites == {"no-sources": 5}
    assert "composites skipped: 5 no-sources" in report.lines()
    assert report.losses()["skipped_composites/no-sources"] == 5
    assert len(read_manifest(tmp_path / "out" / "manifest.csv")) == 0


@pytest.mark.parametrize("name", ["clinical-12-cases", "mfish-slides"])
def test_composites_of_real_crops_are_one_component_on_pure_white(shared_data: Path, name: str, tmp_path: Path) -> None:
    crops = real_crops(shared_data / name)
    subset = crops.subset(np.arange(len(crops)) < 464)
    shares = {"touching": 1.0, "overlapping": 1.0, "touching-overlapping": 1.0}
    chosen = ComposeSettings(count=200, target_shares=shares, chain_shares=[0.7, 0.1, 0.1, 0.1], masks=True)
    compose_set(subset, chosen, tmp_path / "out")
    rows = read_manifest(tmp_path / "out" / "manifest.csv")
    assert len(rows) == 200
    assert set(rows["type"]) == set(shares)
    for path, mask in zip(rows["path"], rows["mask"], strict=True):
        image = decode_crop(tmp_path / "out" / path)
        halo = image < 250
        assert ndimage.label(halo, EIGHT)[1] == 1
        assert (image[~ndimage.binary_dilation(halo, EIGHT)] == 255).all()
        np.testing.assert_array_equal((np.asarray(Image.open(tmp_path / "out" / mask)) & 31) > 0, halo)
