"""Drawn crops: labelled, importable, the same bytes for the same seed, with masks that fit the picture."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from supcam.errors import UsageError
from supcam.synthetic import CaseLook, draw_chromosome, draw_crops, synthesize

EIGHT = np.ones((3, 3), dtype=bool)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "sample"
    synthesize(out, cases=3, crops=60, seed=1)
    return out


def test_the_sample_is_a_labelled_folder_in_the_shares_promised(sample: Path) -> None:
    table = pd.read_csv(sample / "labels.csv")
    assert list(table.columns) == ["path", "type", "case"]
    counts = table["type"].value_counts()
    assert counts.to_dict() == {"instance": 27, "touching": 15, "overlapping": 10, "touching-overlapping": 8}
    assert table["case"].nunique() == 3
    assert sorted(table["path"]) == sorted(
        path.relative_to(sample).as_posix() for path in (sample / "images").rglob("*.png")
    )


def test_every_crop_is_one_dark_component_on_white(sample: Path) -> None:
    for path in sorted(sample.rglob("*.png")):
        image = np.asarray(Image.open(path))
        assert image.dtype == np.uint8
        assert ndimage.label(image < 250, EIGHT)[1] == 1
        assert (image == 255).mean() > 0.1
        assert image.min() < 140
        assert max(image.shape) <= 120


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(sample: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", cases=3, crops=60, seed=1)
    synthesize(tmp_path / "other", cases=3, crops=60, seed=2)
    files = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert all((sample / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert any((sample / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in files)


def test_counts_of_each_type_can_be_given(tmp_path: Path) -> None:
    table = synthesize(tmp_path / "counted", cases=2, seed=1, counts=[5, 9, 4, 3])
    counts = table["type"].value_counts().to_dict()
    assert counts == {"instance": 5, "touching": 9, "overlapping": 4, "touching-overlapping": 3}
    with pytest.raises(UsageError, match="each at least the number of cases"):
        synthesize(tmp_path / "other", cases=4, seed=1, counts=[5, 9, 4, 3])


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not an empty folder"):
        synthesize(tmp_path, cases=1, crops=20, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(("cases", "crops"), [(0, 20), (3, 10)])
def test_too_few_crops_are_refused(tmp_path: Path, cases: int, crops: int) -> None:
    with pytest.raises(UsageError, match="at least 8 crops a case"):
        synthesize(tmp_path / "out", cases=cases, crops=crops, seed=0)
    assert not (tmp_path / "out").exists()


def test_masks_fit_the_picture() -> None:
    _, drawings = draw_crops(3, 24, 5)
    for drawing in drawings:
        assert drawing.image.shape == drawing.body.shape == drawing.halo.shape
        assert not (drawing.body & ~drawing.halo).any()
        dark = drawing.image < 250
        assert np.count_nonzero(dark ^ drawing.halo) <= 0.06 * np.count_nonzero(drawing.halo)
        assert ndimage.label(drawing.body, EIGHT)[1] == 1


def test_kinds_differ_in_length_and_cases_in_look() -> None:
    look = CaseLook.draw(np.random.default_rng(0))
    areas = [draw_chromosome(kind, look, np.random.default_rng(1)).body.sum() for kind in range(22)]
    assert areas[0] > 2.5 * areas[20]
    looks = {CaseLook.draw(np.random.default_rng(seed)) for seed in range(10)}
    assert len({round(look.contrast, 2) for look in looks}) > 6
