"""The gate: each thing that is wrong with the data fails its own rule, with the row, the value and the remedy."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from supcam.data.expectations import validate_composed, validate_crops, validate_splits
from supcam.data.groups import merged
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.data.measure import measure_crops, near_duplicates
from supcam.data.reports import ValidationReport, read_links, require_passed
from supcam.data.rules import DEMANDS, composed_rules, data_rules
from supcam.data.splits import split_manifest
from supcam.errors import GateRefused, SettingError, UsageError
from supcam.settings import SplitSettings, ValidateComposedSettings, ValidateSettings
from tests.support.drawing import draw_crop, encode, write_source

Make = Callable[..., pd.DataFrame]
STRICT = ValidateSettings()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported crops that pass every rule; tests change copies of the manifest, or their own copy of the folder."""
    root = tmp_path_factory.mktemp("gate")
    source = write_source(root / "lab", per_type=6)
    import_sources([source], root / "data", case_pattern="(case[0-9])")
    return root / "data"


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


def failed(report: ValidationReport) -> dict[str, int]:
    return {rule.name: rule.count for rule in report.rules if rule.count}


def test_clean_crops_pass(data: Path, tmp_path: Path) -> None:
    report = validate_crops(read_manifest(data / "manifest.csv"), data, STRICT)
    assert report.passed
    assert failed(report) == {}
    assert require_passed(report, tmp_path / "validation.json") == "raw: 24 crops passed"
    written = json.loads((tmp_path / "validation.json").read_text())
    assert (written["passed"], written["crops"], written["manifest_hash"]) == (True, 24, report.manifest_hash)


EDITED = [
    ("crop_id", "lab/instance/case1 [1] a.png", "id_unique", "crop_id = lab/instance/case1 [1] a.png"),
    ("path", "crops/lab/gone.png", "readable", "problem = file is missing"),
    ("path", "../manifest.csv", "readable", "problem = leads out of the data folder"),
    ("path", "", "complete", "path = nothing"),
    ("type", "cluster", "type_known", "type = cluster"),
    ("type", "", "complete", "type = nothing"),
    ("sha256", "0" * 64, "bytes_unchanged", "bytes = sha256"),
    ("width", 999, "size_as_recorded", "size = 36 x "),
    ("split", "holdout", "split_known", "split = holdout"),
    ("path", f"crops/{'x' * 300}.png", "readable", "problem = cannot be opened: File name too long"),
    ("path", "crops/lab", "readable", "problem = cannot be opened: Is a directory"),
    ("source", "other", "source_of_id", "id_source = other"),
]


@pytest.fixture(scope="module")
def edited(data: Path) -> ValidationReport:
    """Each edit in a row of its own, from the third; the first has the id of the second."""
    frame = read_manifest(data / "manifest.csv").assign(split="train")
    for number, (column, value, _, _) in enumerate(EDITED):
        frame.loc[number + 2 if number else 0, column] = value
    return validate_crops(frame, data, STRICT)


@pytest.mark.parametrize("number", range(len(EDITED)), ids=[f"{column}-{rule}" for column, _, rule, _ in EDITED])
def test_manifest_edited_by_hand(edited: ValidationReport, number: int) -> None:
    _, _, rule, found = EDITED[number]
    assert not edited.passed
    line = number + 4 if number else 2
    (row,) = (row for _, row in edited.failing[edited.failing["rule"] == rule].iterrows() if row["line"] == line)
    assert str(row["value"]).startswith(found)
    assert row["severity"] == "stop"
    assert row["remedy"]
    assert rule != "complete" or row["allowed"] == "not empty"


UNUSABLE = {
    "foreground": np.full((40, 36), 255, dtype=np.uint8),
    "not_a_crop": np.full((40, 36), 90, dtype=np.uint8),
    "short_side": draw_crop(0, 6, 6),
    "long_side": np.pad(draw_crop(0), 1100, constant_values=255),
    "components": np.hstack([draw_crop(0), draw_crop(5)]),
    "normalised": 255 - draw_crop(0),
    "contrast": (255 - (255 - draw_crop(0).astype(float)) * 0.06).astype(np.uint8),
}


@pytest.fixture(scope="module")
def unusable(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, ValidationReport]:
    """Each picture in place of a crop: the manifest, and what the gate says."""
    own = Path(shutil.copytree(data, tmp_path_factory.mktemp("unusable") / "data"))
    frame = read_manifest(own / "manifest.csv")
    for path, image in zip(frame["path"], UNUSABLE.values(), strict=False):
        (own / path).write_bytes(encode(image))
    return frame, validate_crops(frame, own, STRICT)


@pytest.mark.parametrize("rule", UNUSABLE)
def test_unusable_pictures(unusable: tuple[pd.DataFrame, ValidationReport], rule: str) -> None:
    frame, report = unusable
    found = set(report.failing.loc[report.failing["rule"] == rule, "crop_id"])
    assert frame.loc[list(UNUSABLE).index(rule), "crop_id"] in found
    assert found <= set(frame["crop_id"][: len(UNUSABLE)])


def test_blurred_crop_is_an_outlier_of_focus(own: Path) -> None:
    from scipy.ndimage import gaussian_filter

    frame = read_manifest(own / "manifest.csv")
    path = own / frame.loc[0, "path"]
    sharp = np.asarray(Image.open(path))
    path.write_bytes(encode(np.clip(gaussian_filter(sharp.astype(float), 5), 0, 255).astype(np.uint8)))
    assert "focus" in failed(validate_crops(frame, own, STRICT))


def test_corrupt_and_missing_files_stop(own: Path) -> None:
    frame = read_manifest(own / "manifest.csv")
    (own / frame.loc[0, "path"]).write_bytes(b"\x89PNG damaged")
    (own / frame.loc[1, "path"]).unlink()
    report = validate_crops(frame, own, STRICT)
    assert failed(report) == {"readable": 2}
    with pytest.raises(
        GateRefused,
        match=r"(?s)line 2 lab/instance.*not an image of a known.*line 3.*missing.*git checkout -- data\.dvc",
    ):
        require_passed(report, own.parent / "validation.json")
    assert not json.loads((own.parent / "validation.json").read_text())["passed"]


def test_crop_without_a_row_is_not_left_out_in_silence(own: Path) -> None:
    (own / "crops" / "lab" / "touching" / "dropped in.PNG").write_bytes(encode(draw_crop(99)))
    report = validate_crops(read_manifest(own / "manifest.csv"), own, STRICT)
    assert not report.passed
    row = report.failing.iloc[0]
    assert (row["rule"], row["path"]) == ("accounted_for", "crops/lab/touching/dropped in.PNG")


def test_duplicates_and_label_conflicts(own: Path) -> None:
    frame = read_manifest(own / "manifest.csv")
    first, same_type, other_type = 0, 1, 8
    picture = Image.open(own / frame.loc[first, "path"])
    (own / frame.loc[same_type, "path"]).write_bytes(encode(picture, "PNG", optimize=True))
    report = validate_crops(frame, own, STRICT)
    assert failed(report) == {"bytes_unchanged": 1, "size_as_recorded": 1, "exact_duplicate": 2}
    assert set(report.failing.loc[report.failing["rule"] == "exact_duplicate", "value"]) == {
        f"same_picture = {frame.loc[index, 'crop_id']}" for index in (first, same_type)
    }
    (own / frame.loc[other_type, "path"]).write_bytes(encode(picture, "BMP"))
    report = validate_crops(frame, own, STRICT)
    conflict = report.failing[report.failing["rule"] == "label_conflict"]
    assert set(conflict["crop_id"]) == set(frame.loc[[first, same_type, other_type], "crop_id"])
    assert report.linked == [sorted(conflict["crop_id"])]


def test_near_duplicate_is_linked_and_kept_together(own: Path, tmp_path: Path) -> None:
    frame = read_manifest(own / "manifest.csv")
    picture = np.asarray(Image.open(own / frame.loc[0, "path"])).astype(float)
    changed = 255 - (255 - np.pad(picture, 3, constant_values=255)) * 0.95
    (own / frame.loc[10, "path"]).write_bytes(encode(changed.astype(np.uint8)))
    report = validate_crops(frame, own, STRICT)
    assert failed(report)["near_duplicate"] == 2
    assert report.linked == [sorted(frame.loc[[0, 10], "crop_id"])]
    report.to_json(tmp_path / "validation.json")
    divided, _ = split_manifest(
        frame.assign(case_id=""), SplitSettings(), None, linked=read_links(tmp_path / "validation.json")
    )
    assert divided.set_index("crop_id").loc[report.linked[0], "split"].nunique() == 1


def test_too_few_crops_of_a_type(data: Path) -> None:
    frame = read_manifest(data / "manifest.csv")
    report = validate_crops(frame[frame["type"] != "overlapping"], data, ValidateSettings(min_crops_per_type=2))
    assert failed(report) == {"accounted_for": 6, "crops_per_type": 1}
    row = report.failing.iloc[-1]
    assert (row["crop_id"], row["rule"], row["value"], row["allowed"]) == (
        "overlapping",
        "crops_per_type",
        "count = 0",
        "at least 2",
    )


def test_severity_is_a_setting(own: Path) -> None:
    frame = read_manifest(own / "manifest.csv")
    frame.loc[0, "sha256"] = "0"
    assert validate_crops(frame, own, ValidateSettings(warn=["bytes_unchanged"])).passed
    (own / frame.loc[0, "path"]).write_bytes(encode(255 - draw_crop(0)))
    assert not validate_crops(frame, own, ValidateSettings(warn=["bytes_unchanged"], stop=["normalised"])).passed
    with pytest.raises(SettingError, match=r"validate\.warn = 'sharpness'.*background"):
        validate_crops(frame, own, ValidateSettings(warn=["sharpness"]))
    with pytest.raises(UsageError, match="holds no crop"):
        validate_crops(frame.head(0), own, STRICT)


def test_page_needs_no_network_and_escapes_names(own: Path, tmp_path: Path) -> None:
    frame = read_manifest(own / "manifest.csv")
    frame.loc[0, "crop_id"] = "<script>alert(1)</script>"
    frame.loc[0, "sha256"] = "0"
    report = validate_crops(frame, own, STRICT)
    with pytest.raises(GateRefused, match=r"docs/index\.html"):
        require_passed(report, tmp_path / "validation.json", own, tmp_path / "docs")
    page = (tmp_path / "docs" / "index.html").read_text()
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", page)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64,") == len(report.failing)


def test_split_suite_finds_what_crosses(manifest: Make) -> None:
    frame = manifest({f"c{index}": {"instance": 4, "touching": 2} for index in range(6)})
    divided, _ = split_manifest(frame, SplitSettings(), None)
    assert failed(validate_splits(divided, STRICT, by_case=True)) == {}
    moved = divided.copy()
    train = moved.index[moved["split"] == "train"][:2]
    moved.loc[train[0], "split"] = "test"
    report = validate_splits(moved, STRICT, by_case=True)
    assert not report.passed
    assert failed(report) == {"case_crosses": 6, "patient_crosses": 6}
    assert report.failing["value"].iloc[0] == "case_in = in test and train"
    assert failed(validate_splits(moved, STRICT, by_case=False)) == {}
    moved.loc[train, "sha256"] = "same"
    links = [list(moved.loc[train, "crop_id"])]
    assert failed(validate_splits(moved, STRICT, by_case=False, linked=links)) == {
        "duplicate_crosses": 2,
        "near_duplicate_crosses": 2,
    }


def test_part_without_a_type_only_warns(manifest: Make) -> None:
    frame = manifest({f"c{index}": {"instance": 4} for index in range(6)} | {"r": {"overlapping": 1, "instance": 3}})
    divided, _ = split_manifest(frame, SplitSettings(), None)
    report = validate_splits(divided, STRICT, by_case=True)
    assert report.passed
    assert failed(report) == {"type_in_every_part": 2}


def test_an_empty_part_stops(manifest: Make) -> None:
    """A split without validation crops passed with warnings only."""
    frame = manifest({f"c{index}": {"instance": 4} for index in range(6)}).assign(split="train")
    frame.loc[frame["case_id"] == "c0", "split"] = "test"
    report = validate_splits(frame, STRICT, by_case=True)
    assert not report.passed
    assert failed(report) == {"part_filled": 1, "type_in_every_part": 1}
    assert report.failing.iloc[0][["crop_id", "value", "allowed"]].to_list() == [
        "validation",
        "count = 0",
        "at least 1",
    ]


@pytest.fixture
def composed(data: Path, tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Two crops with the columns of composites, the training rows, and their folder."""
    sources = read_manifest(data / "manifest.csv").assign(split="train")
    out = tmp_path / "compose"
    (out / "crops").mkdir(parents=True)
    ids = sources.loc[sources["type"] == "instance", "crop_id"].to_list()
    rows = sources.head(2).copy()
    for index in (0, 1):
        content = encode(draw_crop(70 + index, 60, 50))
        (out / "crops" / f"{index}.png").write_bytes(content)
        rows.loc[index, "sha256"] = hashlib.sha256(content).hexdigest()
    rows = rows.assign(crop_id=["x0", "x1"], path=["crops/0.png", "crops/1.png"], width=50, height=60)
    rows = rows.assign(
        type=["touching", "overlapping"], relation=["touch", "overlap"], parent_a=ids[0], parent_b=ids[1]
    )
    return rows, sources, out


def test_composites_pass_and_each_fault_is_found(composed: tuple[pd.DataFrame, pd.DataFrame, Path], data: Path) -> None:
    rows, sources, out = composed
    settings = ValidateComposedSettings()

    def judge(frame: pd.DataFrame, **options: object) -> dict[str, int]:
        return failed(validate_composed(frame, sources, out, settings, sources_root=data, **options))  # type: ignore[arg-type]

    assert judge(rows, requested=2) == {}
    assert judge(rows, requested=5) == {"count_as_asked": 1}
    assert judge(rows, requested=1) == {"count_as_asked": 1}
    assert judge(rows.assign(type="touching")) == {"label_algebra": 1}
    assert judge(rows.assign(parent_a="lab/unknown.png")) == {"parents": 2}
    chain = ";".join(sources.loc[sources["type"].isin(["instance", "overlapping"]), "crop_id"].iloc[[0, 7]])
    assert judge(rows.assign(parents=chain)) == {"label_algebra": 1}
    (out / "crops" / "1.png").write_bytes(encode(draw_crop(70, 60, 9)))
    assert "short_side" in judge(rows)
    (out / "crops" / "0.png").write_bytes(encode(np.zeros((600, 500), dtype=np.uint8)))
    assert {"intensity", "long_side", "bytes_unchanged", "size_as_recorded"} <= set(judge(rows))


def test_nothing_is_written_outside_and_nobody_is_called(data: Path, tmp_path: Path) -> None:
    """Great Expectations writes to the home folder and phones home unless it is kept from both."""
    script = (
        "import socket, sys; from pathlib import Path\n"
        "def refuse(*a, **k): raise SystemExit('called out')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "from supcam.data.expectations import validate_crops; from supcam.data.manifest import read_manifest\n"
        "from supcam.settings import ValidateSettings\n"
        f"data = Path({str(data)!r})\n"
        "print(validate_crops(read_manifest(data / 'manifest.csv'), data, ValidateSettings()).passed)\n"
    )
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "work")}
    for folder in folders.values():
        folder.mkdir()
    work = folders.pop("work")
    environment = {
        **os.environ,
        **{name: str(folder) for name, folder in folders.items()},
        "GX_ANALYTICS_ENABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "True", done.stderr
    assert [list(folder.iterdir()) for folder in (work, *folders.values())] == [[], [], [], []]


def test_the_real_sources_pass_and_their_repeated_metaphases_are_linked(shared_data: Path, tmp_path: Path) -> None:
    """Cells V1805XY and V2704XY (slides V18, V27) are one metaphase imaged twice; different cells are not linked."""
    root = tmp_path / "mfish"
    table = pd.read_csv(shared_data / "mfish-slides" / "labels.csv", dtype=str)
    chosen = table[table["cell"].isin(["V1805XY", "V2704XY", "V1301XY", "V1304XY", "A0101XY", "P0801XY"])]
    for path in chosen["path"]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shared_data / "mfish-slides" / path, root / path)
    chosen.to_csv(root / "labels.csv", index=False)
    import_sources([root, shared_data / "clinical-12-cases"], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    report = validate_crops(frame, tmp_path / "data", STRICT)
    assert report.passed
    assert not {"exact_duplicate", "label_conflict", "normalised"} & set(failed(report))
    cells = dict(zip(frame["crop_id"], frame["cell"], strict=True))
    linked = {tuple(sorted({cells[crop_id] for crop_id in ids})) for ids in report.linked}
    assert linked == {("V1301XY", "V1304XY"), ("V1805XY", "V2704XY")}
    assert len(report.linked) >= 30


def test_near_duplicates_equal_a_search_of_all_pairs(data: Path) -> None:
    frame = read_manifest(data / "manifest.csv")
    _, vectors, _ = measure_crops(pd.concat([frame, frame.iloc[[3, 5]]], ignore_index=True), data)
    wanted = [
        (one, two)
        for one in range(len(vectors))
        for two in range(one + 1, len(vectors))
        if vectors[one, :-2] @ vectors[two, :-2] >= 0.9
        and np.abs(vectors[one, -2:] - vectors[two, -2:]).max() <= np.log1p(0.1)
    ]
    assert (3, len(frame)) in wanted
    assert near_duplicates(vectors, 0.9, 0.1) == merged(wanted)


def test_many_copies_of_one_picture_stay_one_group(data: Path) -> None:
    """Copies must cost memory by their number, not by the number of their pairs."""
    frame = read_manifest(data / "manifest.csv")
    _, vectors, _ = measure_crops(frame, data)
    many = np.concatenate([np.repeat(vectors[:1], 2000, axis=0), np.zeros_like(vectors[:5])])
    assert near_duplicates(many, 0.99, 0.1) == [list(range(2000))]


def test_crops_are_measured_the_same_in_several_processes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = read_manifest(data / "manifest.csv").head(20)
    frame.loc[3, "path"] = "crops/missing.png"
    alone = measure_crops(frame, data)
    monkeypatch.setattr("supcam.data.measure._ALONE", 1)
    counted = []
    together = measure_crops(frame, data, progress=lambda done, _: counted.append(done))
    pd.testing.assert_frame_equal(together[0], alone[0])
    assert together[0]["problem"].iloc[3] == "file is missing"
    assert all(np.array_equal(one, other) for one, other in zip(together[1:], alone[1:], strict=True))
    assert counted == list(range(1, 21))


def test_every_rule_says_on_the_page_what_it_demands() -> None:
    raw, splits = data_rules(ValidateSettings())
    composed = composed_rules(ValidateComposedSettings(), (0, 100), (20.0, 200.0))
    assert {rule.name for rule in [*raw, *splits, *composed]} == DEMANDS.keys()
