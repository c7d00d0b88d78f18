"""The same picture is found again, turned, mirrored, resized or saved with losses; others of the same kind are not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from supcam.data.expectations import validate_crops
from supcam.data.fingerprints import fingerprint, same_pictures
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.data.splits import split_manifest
from supcam.serving.images import decode_crop
from supcam.settings import SplitSettings, ValidateSettings
from supcam.synthetic.sample import synthesize
from tests.support.drawing import encode

Picture = NDArray[np.uint8]


def turned(image: Picture, symmetry: int) -> Picture:
    """One of the 8 symmetries of the square."""
    image = image.T if symmetry & 4 else image
    image = image[::-1] if symmetry & 1 else image
    return np.ascontiguousarray(image[:, ::-1] if symmetry & 2 else image)


def jpeg(image: Picture, quality: int = 75) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(image: Picture, factor: float) -> Picture:
    size = tuple(max(8, round(side * factor)) for side in reversed(image.shape))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    folder = tmp_path_factory.mktemp("drawn") / "lab"
    frame = synthesize(folder, cases=3, crops=48, seed=5)
    return [decode_crop(folder / path) for path in frame["path"]]


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda image: image,
    "JPEG": jpeg,
    "two thirds": lambda image: resized(image, 0.67),
    "twice the size": lambda image: resized(image, 2.0),
    "wider margin": lambda image: np.pad(image, 9, constant_values=255),
    "paler": lambda image: (255 - (255 - image.astype(float)) * 0.85).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_48_copies_in_8_symmetries_are_found_and_nothing_else(drawn: list[Picture], change: str) -> None:
    """None of 48 copies was recognised."""
    copies = [CHANGES[change](turned(image, index % 8)) for index, image in enumerate(drawn)]
    prints = np.array([fingerprint(image) for image in [*drawn, *copies]])
    found = same_pictures(prints)
    # Pixels of a body a few wide, made smaller, change its form by more than two pictures of one form may differ.
    missed = 2 if change == "two thirds" else 0
    assert len(found) >= 48 - missed
    assert all(other == index + 48 for index, other in found)


def test_an_empty_picture_is_like_no_other() -> None:
    empty = fingerprint(np.full((20, 30), 255, dtype=np.uint8))
    assert not empty.any()
    assert same_pictures(np.array([empty, empty])) == []


def test_real_crops_are_not_taken_for_each_other(shared_data: Path) -> None:
    """Only crops of metaphases that were imaged twice are alike: V1805 and V2704, V1301 and V1304."""
    folder = shared_data / "mfish-slides"
    paths = sorted(path for path in folder.rglob("V*.png"))[::2] + sorted(folder.rglob("A01*.png"))
    groups = same_pictures(np.array([fingerprint(decode_crop(path)) for path in paths]))
    cells = {tuple(sorted({paths[index].stem.split("_")[0] for index in group})) for group in groups}
    assert cells <= {("V1805XY", "V2704XY"), ("V1301XY", "V1304XY"), ("V260356", "V260856")}
    assert groups


def test_a_turned_copy_in_another_case_shares_the_part(drawn: list[Picture], tmp_path: Path) -> None:
    rows = ["path,type,case"]
    lab = tmp_path / "lab"
    lab.mkdir()
    for index, image in enumerate(drawn):
        (lab / f"{index}.png").write_bytes(encode(image))
        rows.append(f"{index}.png,{'instance' if index % 2 else 'touching'},p{index % 12}")
    for index in range(4):
        (lab / f"copy{index}.jpg").write_bytes(encode(turned(drawn[index], 5), "JPEG"))
        rows.append(f"copy{index}.jpg,{'instance' if index % 2 else 'touching'},q{index}")
    (lab / "labels.csv").write_text("\n".join(rows))
    import_sources([lab], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    report = validate_crops(frame, tmp_path / "data", ValidateSettings())
    pairs = [[f"lab/{index}.png", f"lab/copy{index}.jpg"] for index in range(4)]
    assert report.linked == sorted(pairs)
    failing = report.failing[report.failing["rule"] == "turned_duplicate"]
    assert set(failing["crop_id"]) == {crop_id for pair in pairs for crop_id in pair}
    divided, _ = split_manifest(frame, SplitSettings(), linked=report.linked)
    part = divided.set_index("crop_id")["split"]
    assert all(part[one] == part[other] for one, other in pairs)
