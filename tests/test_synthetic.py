"""Drawn crops: labelled, importable, the same bytes for the same seed, with masks that fit the picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.morphology import convex_hull_image

from supcam.composition.composer import Composer, Composite
from supcam.composition.dataset import compose_set
from supcam.composition.masks import source_defect
from supcam.data.crops import CropSet
from supcam.data.facts import composed_tables
from supcam.data.manifest import is_drawn, read_manifest
from supcam.errors import SettingError, UsageError
from supcam.serving.images import read_crop
from supcam.settings import ComposeSettings, DrawnSettings, InputSettings, LookRanges, parse_settings
from supcam.synthetic.chromosome import Drawing, draw_chromosome
from supcam.synthetic.look import Look
from supcam.synthetic.sample import PLAIN, draw_crops, synthesize
from supcam.synthetic.shape import draw_shape
from supcam.synthetic.singles import draw_singles
from supcam.synthetic.stain import draw_stain
from supcam.training.crop_bank import CropBank

EIGHT = np.ones((3, 3), dtype=bool)
FEW = DrawnSettings(looks=24, singles=3)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "sample"
    synthesize(out, cases=3, crops=60, seed=1)
    return out


@pytest.fixture(scope="module")
def singles() -> CropSet:
    return draw_singles(FEW)


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


def test_drawn_crops_are_read_as_they_were_drawn(singles: CropSet) -> None:
    for image in singles.images:
        np.testing.assert_array_equal(read_crop(image).image, image)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(sample: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", cases=3, crops=60, seed=1)
    synthesize(tmp_path / "other", cases=3, crops=24, seed=2)
    files = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert all((sample / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    crops = [file for file in files if file.suffix == ".png" and (tmp_path / "other" / file).is_file()]
    assert len(crops) >= 8
    assert all((sample / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in crops)


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
    look = Look.draw(PLAIN, np.random.default_rng(0))
    areas = [draw_chromosome(kind, look, np.random.default_rng(1)).body.sum() for kind in range(22)]
    assert areas[0] > 2.5 * areas[20]
    looks = {Look.draw(LookRanges(), np.random.default_rng(seed)) for seed in range(10)}
    assert len({round(look.density, 2) for look in looks}) > 6


def test_singles_are_whatever_the_number_of_workers_and_named_by_look(singles: CropSet) -> None:
    alone, shared = singles, draw_singles(FEW, workers=2)
    assert all(np.array_equal(one, two) for one, two in zip(alone.images, shared.images, strict=True))
    pd.testing.assert_frame_equal(alone.frame, shared.frame)
    assert alone.frame["crop_id"].is_unique
    assert alone.frame["case_id"].nunique() == 24
    assert set(alone.frame["type"]) == {"instance"}
    assert set(alone.frame["split"]) == {"train"}


def test_open_chromatids_stand_apart_and_stay_one_chromosome() -> None:
    fixed = {"kinks": (0.0, 0.0), "bend": (0.0, 0.0), "blur": (0.7, 0.8), "masked": 1.0, "rim": (1.0, 1.0)}
    spread = LookRanges(**fixed, open_share=(1.0, 1.0), opening=(0.5, 0.6))
    closed = LookRanges(**fixed, open_share=(0.0, 0.0))
    fills = []
    for ranges in (spread, closed):
        look = Look.draw(ranges, np.random.default_rng(2))
        drawings = [draw_chromosome(kind, look, np.random.default_rng(kind)) for kind in range(22)]
        assert all(ndimage.label(drawing.image < 250, EIGHT)[1] == 1 for drawing in drawings)
        fills.append(np.mean([d.body.sum() / convex_hull_image(d.body).sum() for d in drawings]))
    assert fills[0] < fills[1] - 0.1  # background shows between open arms


def _straight(**ranges: tuple[float, float]) -> list[Drawing]:
    """Evenly stained straight chromosomes with closed chromatids, but for the ranges given."""
    clean = PLAIN.model_dump() | {
        "width": (14.0, 14.0), "slenderness": (7.0, 7.0), "bend": (0.0, 0.0), "kinks": (0.0, 0.0),
        "groove": (0.8, 0.8), "waist": (0.0, 0.0), "banded": 0.0, "light_bands": (1.0, 1.0), "grain": (0.0, 0.0),
    }  # fmt: skip
    look = Look.draw(LookRanges.model_validate(clean | ranges), np.random.default_rng(3))
    return [draw_chromosome(kind, look, np.random.default_rng(kind)) for kind in range(8)]


def _middle_lighter(drawing: Drawing) -> float:
    """Grey of the line between the chromatids minus that of the chromatids."""
    depth = ndimage.distance_transform_edt(drawing.body)
    return float(drawing.image[depth > 5.5].mean() - drawing.image[(depth > 2.5) & (depth <= 4)].mean())


def _spread(drawing: Drawing) -> float:
    """Standard deviation of grey well inside."""
    return float(drawing.image[ndimage.distance_transform_edt(drawing.body) > 4].std())


def _width_varies(drawing: Drawing) -> float:
    """Standard deviation of the width along the axis, of the ends clear, in mean widths."""
    points = np.argwhere(drawing.body) - np.argwhere(drawing.body).mean(axis=0)
    along = np.round(points @ np.linalg.svd(points, full_matrices=False)[2][0]).astype(int)
    widths = np.bincount(along - along.min())[8:-8]
    return float(widths.std() / widths.mean())


@pytest.mark.parametrize(
    ("name", "value", "measure", "without", "with_it"),
    [
        ("seam", 0.9, _middle_lighter, 0.0, 10.0),
        ("mottle", 0.5, _spread, 6.0, 15.0),
        ("pale_tips", 1.0, _spread, 6.0, 8.0),
        ("unevenness", 0.25, _width_varies, 0.07, 0.09),
    ],
)
def test_what_a_range_varies_is_seen_in_the_picture(
    name: str, value: float, measure: Callable[[Drawing], float], without: float, with_it: float
) -> None:
    assert np.median([measure(drawing) for drawing in _straight()]) < without
    assert np.median([measure(drawing) for drawing in _straight(**{name: (value, value)})]) > with_it


def test_bands_of_sister_chromatids_differ_as_far_as_asked_for() -> None:
    differences = []
    for much in (0.0, 0.5):
        look = Look.draw(PLAIN.model_copy(update={"sisters": (much, much)}), np.random.default_rng(1))
        shapes = [draw_shape(kind, look, np.random.default_rng(kind)) for kind in range(8)]
        stains = [draw_stain(shape, look, np.random.default_rng(0)) for shape in shapes]
        differences.append(np.mean([np.abs(stain[0] - stain[1]).mean() for stain in stains]))
    assert differences[1] > 2 * differences[0]


def test_most_drawn_singles_can_be_composed() -> None:
    crops = draw_singles(DrawnSettings(looks=40, singles=4))
    defects = [source_defect(image, ComposeSettings()) for image in crops.images]
    assert sum(defect is None for defect in defects) > 0.9 * len(defects)


def test_the_share_of_composites_made_of_drawn_singles_is_the_one_asked_for(singles: CropSet) -> None:
    real, _ = draw_crops(2, 12, 3)
    frame = pd.concat([real.frame.assign(relation="", source="lab", case_id=real.groups, split="train"), singles.frame])
    frame["type"] = frame["type"].fillna("instance")
    both = CropSet(frame.reset_index(drop=True), [*real.images, *singles.images])
    settings = ComposeSettings(drawn=FEW.model_copy(update={"share": 0.7}))
    composer = Composer(both, settings)
    made = [made for index in range(60) if isinstance(made := composer.compose(0, index), Composite)]
    of_drawn = [parent.startswith("drawn-") for composite in made for parent in composite.parents[:1]]
    assert 0.5 < np.mean(of_drawn) < 0.88
    assert all(len({parent.startswith("drawn-") for parent in composite.parents}) == 1 for composite in made)


def test_the_composed_set_holds_the_drawn_singles_and_passes_the_rules_of_composites(
    singles: CropSet, tmp_path: Path
) -> None:
    report = compose_set(singles, ComposeSettings(count=12, drawn=FEW), tmp_path / "composed")
    rows = read_manifest(tmp_path / "composed" / "manifest.csv")
    assert (report.composed, report.drawn, len(rows)) == (12, 72, 84)
    kept = rows[is_drawn(rows)]
    assert kept["crop_id"].to_list() == singles.frame["crop_id"].to_list()
    loaded = CropSet.load(kept, tmp_path / "composed")
    assert all(np.array_equal(one, two) for one, two in zip(loaded.images, singles.images, strict=True))
    tables = composed_tables(rows, rows.iloc[:0], tmp_path / "composed", 12, None)
    assert set(tables["crop"]["parents_known"]) == set(tables["crop"]["algebra"]) == {"ok"}
    assert tables["type"]["missing"].to_list() == [0.0]
    bank = CropBank.from_crops(CropSet.load(rows, tmp_path / "composed"), InputSettings(size=32), torch.device("cpu"))
    assert bank.composed.all()  # epochs on real crops alone see none of them


def test_a_look_too_pale_for_its_cut_is_refused_by_name() -> None:
    pale = LookRanges(density=(0.1, 0.1), fluorescent=1.0, stretched=0.0, masked=0.0, cut_level=(150.0, 150.0))
    with pytest.raises(SettingError, match=r"compose\.drawn\.ranges\.cut_level = 150\.0"):
        draw_singles(DrawnSettings(looks=1, ranges=pale))


@pytest.mark.parametrize(
    ("drawn", "named"),
    [
        ({"share": 0.5}, r"share must be 0 without looks"),
        ({"looks": 4, "ranges": {"width": [9, 3]}}, r"compose\.drawn\.ranges\.width = \[9, 3\].*two rising numbers"),
        ({"looks": 4, "ranges": {"contrast": [1, 2]}}, r"compose\.drawn\.ranges\.contrast"),
        ({"cases": 12}, r"compose\.drawn\.cases"),
    ],
)
def test_settings_that_draw_nothing_or_are_of_another_sample_are_refused_by_name(
    drawn: dict[str, object], named: str
) -> None:
    with pytest.raises(SettingError, match=named):
        parse_settings({"compose": {"drawn": drawn}})
