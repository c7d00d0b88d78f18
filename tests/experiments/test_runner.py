"""A real table of two rows on two folds: metrics, p-values, files, the section of the page, and a resumed run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from supcam.data.crops import CropSet
from supcam.errors import SupcamError, UsageError
from supcam.experiments import jobs as module
from supcam.experiments.parts import grouped_folds
from supcam.experiments.pool import JobCounts
from supcam.experiments.results import content_section, put_file, put_section
from supcam.experiments.rows import with_overrides
from supcam.experiments.runner import ablate
from tests.experiments.conftest import quick
from tests.support.imports import ROOT

Ablation = tuple[dict[str, Any], JobCounts]
SETTINGS = with_overrides(
    quick(pretrain={"epochs": 1}, compose={"count": 12, "workers": 1}),
    {
        "ablation.rows": ["forest", "ce"],
        "ablation.reference": "ce",
        "ablation.folds": 2,
        "ablation.sweep_row": "unified",
        "ablation.sweeps": {"pretrain.temperature": [0.1, 0.2]},
    },
)


def run(crops: CropSet, folder: Path, settings: object = SETTINGS) -> Ablation:
    parts = grouped_folds(crops.frame, SETTINGS.split, 2)
    return ablate(crops, parts, settings, folder / "out", state=folder / "state", root=ROOT)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ablation]:
    folder = tmp_path_factory.mktemp("ablation")
    return folder, run(crops, folder)


def test_the_table(finished: tuple[Path, Ablation], crops: CropSet) -> None:
    folder, found = finished
    content = json.loads((folder / "out" / "ablation.json").read_text())
    assert content == found[0]
    assert list(content["rows"]) == ["forest", "ce"]
    forest, reference = content["rows"]["forest"], content["rows"]["ce"]
    assert forest["crops"] == len(crops) and forest["cases"] == 8
    assert forest["macro_sensitivity"]["value"] > 0.9
    assert reference["paired"] is None
    paired = forest["paired"]
    expected = forest["macro_sensitivity"]["value"] - reference["macro_sensitivity"]["value"]
    assert paired["difference"] == pytest.approx(expected)
    assert 0 <= paired["p_value"] <= paired["p_value_adjusted"] <= 1
    assert forest["seconds_per_cell"] > 0 and forest["processor_seconds_per_cell"] > 0
    for name in ("macro_auc", "calibration_error"):
        assert forest[name]["low"] <= forest[name]["value"] <= forest[name]["high"]
    assert [point["at"] for point in content["sweeps"]["pretrain.temperature"]] == [0.1, 0.2]
    assert found[1].ran == 8 and not found[1].failed


def test_files_and_figures(finished: tuple[Path, Ablation], crops: CropSet) -> None:
    out = finished[0] / "out"
    table = pd.read_csv(out / "table.csv")
    assert table["row"].tolist() == ["forest", "ce", "pretrain.temperature=0.1", "pretrain.temperature=0.2"]
    assert set(pd.read_csv(out / "predictions" / "forest.csv")["crop_id"]) == set(crops.frame["crop_id"])
    for name in ("rows.png", "sweep_pretrain_temperature.png"):
        assert Image.open(out / name).size[0] > 300


def test_a_second_run_trains_nothing_and_says_the_same(finished: tuple[Path, Ablation], crops: CropSet) -> None:
    folder, first = finished
    again = run(crops, folder)
    assert (again[1].kept, again[1].ran) == (8, 0)
    assert again[0]["rows"] == first[0]["rows"]


def test_the_section_of_the_page(finished: tuple[Path, Ablation], tmp_path: Path) -> None:
    content = finished[1][0]
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nTyped words.\n")
    put_section(page, "ablation", content_section(content))
    first = page.read_text()
    for text in ("Typed words.", "geometric features, random forest (`forest`)", "| pretrain.temperature |"):
        assert text in first
    assert f"{content['rows']['ce']['accuracy']['value']:.4f}" in first
    paired = content["rows"]["forest"]["paired"]
    assert f"| {paired['only_model']:.0f}, {paired['only_reference']:.0f} | {paired['p_value']:.3g} |" in first
    put_section(page, "ablation", content_section(content))
    assert page.read_text() == first
    # Results of earlier versions call the description what it is told.
    older = {name: {"told": row["description"], **row} for name, row in content["rows"].items()}
    for row in older.values():
        del row["description"]
    assert content_section({**content, "rows": older}) == content_section(content)
    put_section(page, "folds", "## Other")
    put_section(page, "ablation", "## Now this")
    assert page.read_text().count("begin ablation") == 1 and "forest" not in page.read_text()
    assert "## Other" in page.read_text()


def test_the_interval_is_shown_as_it_was_set(finished: tuple[Path, Ablation]) -> None:
    content = json.loads(json.dumps(finished[1][0]))
    assert "intervals (95 %)" in content_section(content)
    content["settings"]["evaluate"]["confidence"] = 0.9
    assert "intervals (90 %)" in content_section(content)


def test_rows_that_fail_are_reported_and_the_others_stand(
    crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*_: object) -> None:
        raise SupcamError("loss is not a finite number")

    monkeypatch.setattr(module, "run_recipe", diverging)
    settings = with_overrides(SETTINGS, {"ablation.sweeps": {}})
    found = run(crops, tmp_path, settings)
    assert list(found[0]["rows"]) == ["forest"]
    assert found[0]["rows"]["forest"]["paired"] is None
    assert "loss is not a finite number" in content_section(found[0])
    with pytest.raises(SupcamError, match=r"no row finished: ce, seed 42, fold 0: loss is not a finite"):
        run(crops, tmp_path, with_overrides(settings, {"ablation.rows": ["ce"]}))


def test_a_point_that_is_a_row_is_one_comparison(
    finished: tuple[Path, Ablation], crops: CropSet, tmp_path: Path
) -> None:
    """The point 0.1 is the row itself: three comparisons shown, two adjusted for."""
    shutil.copytree(finished[0] / "state", tmp_path / "state")  # both points are trained
    changes = {"pretrain.temperature": 0.1, "ablation.rows": ["ce", "unified"]}
    found = run(crops, tmp_path, with_overrides(SETTINGS, changes))[0]
    row, (same, other) = found["rows"]["unified"]["paired"], found["sweeps"]["pretrain.temperature"]
    assert row == same["paired"]
    first, second = sorted((row, other["paired"]), key=lambda one: one["p_value"])
    assert first["p_value_adjusted"] == pytest.approx(min(1.0, 2 * first["p_value"]))
    assert second["p_value_adjusted"] == pytest.approx(max(second["p_value"], first["p_value_adjusted"]))
    # The same with the row as reference: its own point is no comparison at all.
    changes["ablation.reference"] = "unified"
    found = run(crops, tmp_path, with_overrides(SETTINGS, changes))[0]
    same, other = (point["paired"] for point in found["sweeps"]["pretrain.temperature"])
    assert (same["p_value"], same["p_value_adjusted"]) == (1.0, 1.0)
    first, second = sorted((found["rows"]["ce"]["paired"], other), key=lambda one: one["p_value"])
    assert first["p_value_adjusted"] == pytest.approx(min(1.0, 2 * first["p_value"]))


def test_sections_of_folds_and_chrcluster(finished: tuple[Path, Ablation], tmp_path: Path) -> None:
    content = finished[1][0]
    base = {name: content[name] for name in ("origin", "manifest_hash", "settings", "seeds")}
    subsets = {"all crops": content["rows"]["ce"], "mfish-slides": content["rows"]["forest"]}
    times = {"seconds_per_fold": 12.0, "processor_seconds_per_fold": 20.0}
    text = content_section(base | times | {"kind": "folds", "folds": 2, "subsets": subsets})
    assert "Median time of a fold: 12 s, of all cores 20 s." in text
    value = content["rows"]["forest"]["accuracy"]["value"]
    (goal,) = [line for line in text.splitlines() if line.startswith("| mfish-slides | accuracy | 0.95 |")]
    assert f"| {value:.4f}" in goal and goal.endswith("| yes |" if value >= 0.95 else "| no |")
    counts = {"train": {"instance": 3}, "validation": {}, "test": {"instance": 1}}
    split = {"hash": "a" * 64, "counts": counts}
    result = base | {"kind": "chrcluster", "split": split, "seconds": {"import": 1.2}, "subsets": subsets}
    assert "| train | 3 | 0 | 0 | 0 |" in content_section(result)
    file, page = tmp_path / "chrcluster.json", tmp_path / "results.md"
    file.write_text(json.dumps(result))
    put_file(page, file)
    assert "## ChrCluster, protocol `paper`" in page.read_text()
    for wrong in ("{}", "[1]", "not JSON", json.dumps({"kind": "folds"}), json.dumps({**result, "kind": "other"})):
        file.write_text(wrong)
        with pytest.raises(UsageError, match=r"chrcluster.json is not a result that has a section"):
            put_file(page, file)
