"""Import: every layout comes in, all or nothing, with the original bytes and as a recorded version."""

import csv
import os
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supcam.data import folder
from supcam.data.importers import ImportRefused, import_sources
from supcam.data.labels import CHRCLUSTER_COUNTS
from supcam.data.manifest import read_manifest
from supcam.errors import SupcamError, UsageError
from supcam.serving.images import decode_crop
from tests.support.drawing import draw_crop, encode, write_source

CROP = encode(draw_crop(1))


def table(root: Path, rows: list[dict[str, str]], separator: str = ",") -> None:
    with (root / "labels.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_folder_per_type_keeps_the_bytes(source: Path, tmp_path: Path) -> None:
    (source / "notes.txt").write_text("ignored")
    (source / "instance" / ".hidden.png").write_bytes(b"ignored")
    report = import_sources([source], tmp_path / "data", case_pattern=r"(?P<case>case[0-9])")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert report.added == report.total == len(frame) == 24
    assert report.types == dict.fromkeys(("instance", "touching", "overlapping", "touching-overlapping"), 6)
    assert report.ignored == {"files without an image suffix": 1, "hidden files": 1}
    assert set(frame["case_id"]) == {"case0", "case1", "case2"}
    for row in frame.itertuples():
        original = source / str(row.crop_id).removeprefix("lab one/")
        assert (tmp_path / "data" / str(row.path)).read_bytes() == original.read_bytes()


def test_the_same_input_gives_the_same_manifest(source: Path, tmp_path: Path) -> None:
    first = import_sources([source], tmp_path / "one")
    second = import_sources([source], tmp_path / "two")
    assert first.manifest_hash == second.manifest_hash
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    again = import_sources([source], tmp_path / "one")
    assert (again.added, again.unchanged, again.manifest_hash) == (0, 24, first.manifest_hash)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_adding_a_source_renames_nothing(source: Path, tmp_path: Path) -> None:
    other = write_source(tmp_path / "lab two", per_type=2, seed=50, suffix=".TIF".lower())
    import_sources([source], tmp_path / "data")
    before = contents(tmp_path / "data" / "crops")
    report = import_sources([other], tmp_path / "data")
    after = contents(tmp_path / "data" / "crops")
    assert (report.added, report.total) == (8, 32)
    assert before.items() <= after.items()
    both = import_sources([source, other], tmp_path / "both")
    assert both.manifest_hash == report.manifest_hash


def test_labels_table_wins_and_keeps_its_columns(tmp_path: Path) -> None:
    root = tmp_path / "table"
    (root / "images").mkdir(parents=True)
    for name in ("a [1].png", "b.png", "unlisted.png"):
        (root / "images" / name).write_bytes(CROP)
    (root / "LICENSE.txt").write_text("terms")
    rows = [
        {"path": "images/a [1].png", "type": "Touching Overlapping", "case": "p1", "label_certain": "no", "cell": "7"},
        {"path": "images\\b.png", "type": "instance", "case": "", "label_certain": "", "cell": ""},
    ]
    table(root, rows, ";")
    report = import_sources([root], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv").set_index("crop_id")
    assert frame.loc["table/images/a [1].png", ["type", "case_id", "cell"]].to_list() == [
        "touching-overlapping",
        "p1",
        "7",
    ]
    assert frame["label_certain"].to_list() == [False, True]
    assert report.ignored == {"images not listed in labels.csv": 1}
    assert (tmp_path / "data" / "crops" / "table" / "LICENSE.txt").read_text() == "terms"


def test_a_table_of_any_name_is_taken_instead_of_the_one_beside_it(tmp_path: Path) -> None:
    root = tmp_path / "read-twice"
    root.mkdir()
    for name in ("a.png", "b.png"):
        (root / name).write_bytes(CROP)
    table(root, [{"path": "a.png", "type": "instance"}, {"path": "b.png", "type": "instance"}])
    second = root / "Second Reader.CSV"
    second.write_text("path,type\na.png,touching\n")
    report = import_sources([second], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv").set_index("crop_id")
    assert frame["type"].to_dict() == {"read-twice/a.png": "touching"}
    assert report.ignored == {"images not listed in Second Reader.CSV": 1, "files without an image suffix": 1}
    second.write_text("path,type\na.png,cluster\n")
    with pytest.raises(ImportRefused, match=r"Second Reader\.CSV line 2"):
        import_sources([second], tmp_path / "data", replace=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "cluster"}, "type 'cluster' is unknown"),
        ({"path": "overlapping/a.png", "type": "touching"}, "lies in a folder named overlapping"),
        ({"path": "absent.png"}, "absent.png is not in the source"),
        ({"path": "../outside.png"}, "is not in the source"),
        ({"label_certain": "perhaps"}, "label_certain 'perhaps' is unknown"),
    ],
)
def test_wrong_row_refuses_everything(tmp_path: Path, change: dict[str, str], message: str) -> None:
    root = tmp_path / "table"
    (root / "overlapping").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(CROP)
    for name in ("b.png", "overlapping/a.png"):
        (root / name).write_bytes(CROP)
    good = {"path": "b.png", "type": "instance", "label_certain": ""}
    table(root, [good, {"path": "overlapping/a.png", "type": "overlapping", "label_certain": ""} | change])
    with pytest.raises(ImportRefused, match=message):
        import_sources([root], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_missing_and_taken_columns_are_named(tmp_path: Path) -> None:
    root = write_source(tmp_path / "table", per_type=1)
    table(root, [{"file": "a.png", "type": "instance"}])
    with pytest.raises(UsageError, match="lacks the column 'path'"):
        import_sources([root], tmp_path / "data")
    table(root, [{"path": "a.png", "type": "instance", "sha256": "x"}])
    with pytest.raises(UsageError, match="sha256, which are taken"):
        import_sources([root], tmp_path / "data")


def test_numeric_folders_need_a_map(tmp_path: Path) -> None:
    root = write_source(tmp_path / "numbers", per_type=2)
    order = {"instance": "3", "touching": "0", "overlapping": "1", "touching-overlapping": "2"}
    for label, number in order.items():
        (root / label).rename(root / number)
    with pytest.raises(ImportRefused, match="--map FOLDER=TYPE"):
        import_sources([root], tmp_path / "data")
    with pytest.raises(UsageError, match="'cluster' is unknown"):
        import_sources([root], tmp_path / "data", type_map={"0": "cluster"})
    report = import_sources([root], tmp_path / "data", type_map={number: label for label, number in order.items()})
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert {path.split("/")[2]: kind for path, kind in zip(frame["path"], frame["type"], strict=True)} == {
        number: label for label, number in order.items()
    }
    assert "numbers: folder 0 = touching, folder 1 = overlapping" in "\n".join(report.lines())


def test_map_of_chrcluster_is_found_from_its_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of its crops; make stress imports as many as it has (tests/experiments/test_chrcluster.py)."""
    assert sum(CHRCLUSTER_COUNTS.values()) == 6592
    for label, count in CHRCLUSTER_COUNTS.items():
        monkeypatch.setitem(CHRCLUSTER_COUNTS, label, count // 20)
    archive = tmp_path / "ChrCluster.zip"
    tiny = encode(np.full((3, 3), 255, dtype=np.uint8), "BMP")
    order = ["overlapping", "instance", "touching-overlapping", "touching"]
    with zipfile.ZipFile(archive, "w") as file:
        for number, label in enumerate(order):
            for index in range(CHRCLUSTER_COUNTS[label]):
                file.writestr(f"ChrCluster/{number}/{index}.{'BMP' if index % 2 else 'bmp'}", tiny)
    report = import_sources([archive], tmp_path / "data")
    assert report.type_maps == {"ChrCluster": {str(number): label for number, label in enumerate(order)}}
    assert report.types == CHRCLUSTER_COUNTS


def test_zip_with_a_wrapped_label_table(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "published.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("top/inner/labels.csv", "path,type,case\nimages/A.PNG,touching,1\n")
        file.writestr("top/inner/images/A.PNG", CROP)
        file.writestr("top/readme.txt", "hello")
        file.writestr("__MACOSX/top/inner/images/._A.PNG", b"junk")
    report = import_sources([archive], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert frame["crop_id"].to_list() == ["published/images/A.PNG"]
    assert (tmp_path / "data" / frame["path"].iloc[0]).read_bytes() == CROP
    assert report.ignored == {"hidden files": 1, "files without an image suffix": 1}


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png", "a\\..\\evil.png"])
def test_zip_slip_is_refused_by_name(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "slip.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("instance/a.png", CROP)
        file.writestr(name, CROP)
    with pytest.raises(ImportRefused, match="leads out of the zip") as caught:
        import_sources([archive], tmp_path / "data")
    assert [path for path in caught.value.refused if "evil" in path]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "slip.zip"]


def test_entry_without_a_name_is_refused(tmp_path: Path) -> None:
    """Found by mutation: asking zipfile whether such an entry is a folder raises IndexError."""
    archive = tmp_path / "nameless.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(""), CROP)
    with pytest.raises(ImportRefused, match="leads out of the zip"):
        import_sources([archive], tmp_path / "data")


def pack(archive: Path, entries: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return archive


def test_names_that_lead_nowhere_are_one_name(tmp_path: Path) -> None:
    """instance/./a.png overwrote instance/a.png."""
    other = encode(draw_crop(2))
    twice = pack(tmp_path / "twice.zip", [("instance/a.png", CROP), ("instance/./a.png", other)])
    with pytest.raises(ImportRefused, match=r"instance/a\.png is in the zip twice"):
        import_sources([twice], tmp_path / "data")
    plain = pack(tmp_path / "plain.zip", [("./instance/a.png", CROP), ("./touching/./b.png", other)])
    import_sources([plain], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert frame["crop_id"].to_list() == ["plain/instance/a.png", "plain/touching/b.png"]
    assert [(tmp_path / "data" / path).read_bytes() for path in frame["path"]] == [CROP, other]


@pytest.mark.parametrize(
    ("name", "reason"),
    [(f"instance/{'x' * 300}.png", "File name too long"), ("instance/a.png/b.png", "Not a directory|File exists")],
)
def test_names_the_file_system_cannot_hold_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    archive = pack(tmp_path / "lab.zip", [("instance/a.png", CROP), (name, CROP)])
    with pytest.raises(ImportRefused, match=rf"lab/{name} cannot be copied under its name: ({reason}). Rename it"):
        import_sources([archive], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_zip_whose_name_cannot_name_crops(tmp_path: Path) -> None:
    """A zip called '...zip' would have been the source '..'."""
    with pytest.raises(UsageError, match=r"cannot name crops\. Rename it"):
        import_sources([pack(tmp_path / "...zip", [("instance/a.png", CROP)])], tmp_path / "data")


def test_zip_that_unpacks_to_too_much_in_all_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, 30_000, dtype=np.uint8).tobytes()
    entries = [(f"instance/{index}.bmp", noise + bytes(28 * 2**20)) for index in range(10)]
    with pytest.raises(UsageError, match=r"bomb\.zip unpacks to \d+ bytes; allowed are at most 268435456.*Split it"):
        import_sources([pack(tmp_path / "bomb.zip", entries)], tmp_path / "data")


def test_label_table_names_a_crop_once_in_every_spelling(tmp_path: Path) -> None:
    """a.png and ./a.png came in as two rows with one id and two types."""
    root = tmp_path / "table"
    (root / "im").mkdir(parents=True)
    for name in ("a.png", "im/a.png"):
        (root / name).write_bytes(CROP)
    rows = [("a.png", "touching"), ("./a.png", "overlapping"), ("im\\a.png", "touching"), ("im//a.png", "touching")]
    table(root, [{"path": path, "type": kind} for path, kind in rows])
    with pytest.raises(ImportRefused) as caught:
        import_sources([root], tmp_path / "data")
    assert set(caught.value.refused) == {f"table/{path}" for path, _ in rows}
    assert all("is listed twice (labels.csv line" in reason for reason in caught.value.refused.values())


def test_label_table_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    """Labels.CSV was ignored without a word, a trailing comma shifted the columns, empty rows were refused."""
    root = tmp_path / "sheet"
    (root / "instance").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (root / "instance" / name).write_bytes(CROP)
    text = "Path;Type;Case;Note;\r\n instance/a.png ; instance ; p1 ;two\r\ninstance/b.png;;;\r\n;;;;\r\n"
    (root / "Labels.CSV").write_text(text.replace("b.png;;", "b.png;Instance;"))
    import_sources([root / "Labels.CSV"], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert frame[["crop_id", "type", "case_id", "Note"]].to_numpy().tolist() == [
        ["sheet/instance/a.png", "instance", "p1", "two"],
        ["sheet/instance/b.png", "instance", "", ""],
    ]


def test_links_and_bombs_in_a_zip_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        link = zipfile.ZipInfo("instance/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("instance/bomb.png", bytes(40 * 2**20))
    with pytest.raises(ImportRefused) as caught:
        import_sources([archive], tmp_path / "data")
    assert "is a link" in caught.value.refused["bad/instance/link.png"]
    assert "times its packed size" in caught.value.refused["bad/instance/bomb.png"]


def test_links_out_of_a_folder_and_pipes_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(CROP)
    (source / "instance" / "link.png").symlink_to(tmp_path / "secret.png")
    (source / "instance" / "folder").symlink_to(tmp_path)
    (source / "instance" / "loop").symlink_to(source)
    (source / "instance" / "circle.png").symlink_to("circle.png")  # used to end with a traceback
    os.mkfifo(source / "instance" / "pipe.png")
    with pytest.raises(ImportRefused) as caught:
        import_sources([source], tmp_path / "data")
    assert {path: reason.split(".")[0] for path, reason in caught.value.refused.items()} == {
        "lab one/instance/link.png": "is a link out of the source",
        "lab one/instance/folder": "is a link out of the source",
        "lab one/instance/circle.png": "cannot be opened: Too many levels of symbolic links",
        "lab one/instance/pipe.png": "is a pipe, socket or device, not a file",
    }


def test_bad_images_are_all_named_and_nothing_is_imported(source: Path, tmp_path: Path) -> None:
    import_sources([source], tmp_path / "data")
    before = contents(tmp_path / "data")
    other = write_source(tmp_path / "other", per_type=1, seed=9)
    (other / "touching" / "cut (1).png").write_bytes(CROP[: len(CROP) // 2])
    (other / "touching" / "text.jpg").write_bytes(b"no image")
    (other / "nowhere").mkdir()
    (other / "nowhere" / "a.png").write_bytes(CROP)
    with pytest.raises(ImportRefused) as caught:
        import_sources([other], tmp_path / "data")
    assert set(caught.value.refused) == {"other/touching/cut (1).png", "other/touching/text.jpg", "other/nowhere/a.png"}
    assert "3 refused" in str(caught.value)
    assert caught.value.exit_code == 2
    assert contents(tmp_path / "data") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "data", "lab one", "other"]


def test_changed_crop_of_a_known_source_is_refused(source: Path, tmp_path: Path) -> None:
    import_sources([source], tmp_path / "data")
    next((source / "instance").iterdir()).write_bytes(CROP)
    with pytest.raises(ImportRefused, match="is there already with another sha256"):
        import_sources([source], tmp_path / "data")
    report = import_sources([source], tmp_path / "data", replace=True)
    assert report.total == 24


def test_sources_of_one_name_and_what_is_not_a_source(source: Path, tmp_path: Path) -> None:
    twin = write_source(tmp_path / "elsewhere" / "lab one", per_type=1)
    with pytest.raises(UsageError, match="two sources are named 'lab one'"):
        import_sources([source, twin], tmp_path / "data")
    with pytest.raises(UsageError, match="contain each other"):
        import_sources([tmp_path], tmp_path / "data")
    with pytest.raises(UsageError, match="does not exist"):
        import_sources([tmp_path / "absent"], tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no crop"):
        import_sources([tmp_path / "empty"], tmp_path / "data")
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match="not a readable zip"):
        import_sources([tmp_path / "no.zip"], tmp_path / "data")


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "not a regular"), ("case", "has no group"), ("(slide)", "not match")]
)
def test_wrong_case_pattern(source: Path, tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_sources([source], tmp_path / "data", case_pattern=pattern)


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_the_new_version_is_recorded(source: Path, dvc_project: Path) -> None:
    report = import_sources([source], dvc_project / "data")
    assert report.versioned
    assert dvc(dvc_project, "status", "--json", "data.dvc").strip() == "{}"
    first = (dvc_project / "data.dvc").read_text()
    assert "nfiles: 25" in first
    other = write_source(dvc_project.parent / "lab two", per_type=1, seed=7)
    import_sources([other], dvc_project / "data")
    assert (dvc_project / "data.dvc").read_text() != first
    assert dvc(dvc_project, "status", "--json", "data.dvc").strip() == "{}"


def test_data_that_are_not_checked_out_or_edited_are_refused(source: Path, dvc_project: Path) -> None:
    data = dvc_project / "data"
    import_sources([source], data)
    with (data / "manifest.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match=r"differs from the version.*dvc pull data\.dvc"):
        import_sources([source], data)
    data.rename(dvc_project / "gone")
    with pytest.raises(UsageError, match=r"not checked out. Run: dvc pull data\.dvc"):
        import_sources([source], data)
    assert not data.exists()
    assert import_sources([source], data, replace=True).total == 24


def test_failing_dvc_leaves_data_and_pointer_as_before(
    source: Path, dvc_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dvc_project / "data"
    import_sources([source], data)
    before, pointer = contents(data), (dvc_project / "data.dvc").read_text()
    other = write_source(dvc_project.parent / "lab two", per_type=1, seed=7)

    def broken(_: Path) -> None:
        (dvc_project / "data.dvc").write_text("half written")
        raise SupcamError("dvc add data failed: disk full")

    monkeypatch.setattr(folder, "record_version", broken)
    with pytest.raises(SupcamError, match="disk full"):
        import_sources([other], data)
    assert contents(data) == before
    assert (dvc_project / "data.dvc").read_text() == pointer
    assert [path.name for path in dvc_project.glob(".data*")] == [".data.lock"]


def test_an_import_during_another_is_refused_and_loses_nothing(source: Path, tmp_path: Path) -> None:
    """Two at once both ended 0 and the crops of one were gone: each took the other's swap for a killed one."""
    data, other = tmp_path / "data", write_source(tmp_path / "lab two", per_type=1, seed=7)
    refusals = []

    def second(done: int, total: int) -> None:
        if done == 3:
            with pytest.raises(SupcamError, match="is being changed by another command") as caught:
                import_sources([other], data)
            refusals.append(caught.value.exit_code)

    assert import_sources([source], data, progress=second).total == 24
    assert refusals == [1]
    assert import_sources([other], data).total == 28


def test_data_changed_by_another_program_during_the_import_are_left_alone(source: Path, tmp_path: Path) -> None:
    """The lock holds off this project's commands only: what a person or DVC wrote meanwhile was overwritten."""
    data, other = tmp_path / "data", write_source(tmp_path / "lab two", per_type=1, seed=7)
    import_sources([source], data)

    def edit(done: int, total: int) -> None:
        if done == total:
            with (data / "manifest.csv").open("a") as file:
                file.write("\n")

    with pytest.raises(SupcamError, match=r"data was changed by another program during the import. Run the import"):
        import_sources([other], data, progress=edit)
    assert (data / "manifest.csv").read_bytes().endswith(b"\n\n")
    assert not (data / "crops" / "lab two").exists()
    assert sorted(path.name for path in tmp_path.glob(".data*")) == [".data.lock"]


KILLED = """
import os, signal, sys
from pathlib import Path
from supcam.data import folder, importers

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

record, rename = folder.record_version, Path.rename
if sys.argv[1] == "building":
    progress = lambda done, total: done == 2 and die()
else:
    progress = None
if sys.argv[1] == "between":
    Path.rename = lambda self, target: die() if target.name == "data" else rename(self, target)
if sys.argv[1] == "unrecorded":
    folder.record_version = die
if sys.argv[1] == "recorded":
    folder.record_version = lambda data: (record(data), die())
importers.import_sources([Path(sys.argv[2])], Path(sys.argv[3]), progress=progress)
"""


@pytest.mark.parametrize(("when", "kept"), [("building", 0), ("between", 0), ("unrecorded", 4), ("recorded", 4)])
def test_a_killed_import_is_finished_or_undone_by_the_next(
    source: Path, dvc_project: Path, when: str, kept: int
) -> None:
    """An import killed when its version was recorded used to be rolled back, and what it built stayed for ever."""
    data, other = dvc_project / "data", write_source(dvc_project.parent / "lab two", per_type=1, seed=7)
    import_sources([source], data)
    killed = subprocess.run([sys.executable, "-c", KILLED, when, str(other), str(data)], check=False)
    assert killed.returncode == -signal.SIGKILL
    again = import_sources([other], data)
    assert (again.unchanged, again.added, again.total) == (kept, 4 - kept, 28)
    assert dvc(dvc_project, "status", "--json", "data.dvc").strip() == "{}"
    assert [path.name for path in dvc_project.glob(".data*")] == [".data.lock"]


def test_a_refused_import_changes_no_file_of_the_data(source: Path, tmp_path: Path) -> None:
    """A crop of the data that has no row was overwritten through its hard link before the import was refused."""
    data = tmp_path / "data"
    import_sources([source], data)
    manifest = data / "manifest.csv"
    head, first, *rest = manifest.read_text().splitlines(keepends=True)
    manifest.write_text(head + "".join(rest))
    victim = first.split(",")[0].removeprefix("lab one/")
    (source / victim).write_bytes(encode(draw_crop(99)))
    (source / "instance" / "bad.png").write_bytes(b"no image")
    before = contents(data)
    with pytest.raises(ImportRefused, match=r"bad\.png"):
        import_sources([source], data)
    assert contents(data) == before


@pytest.mark.parametrize(("column", "value"), [("label_certain", "yes"), ("stain", "R-band"), ("case", "p2")])
def test_changed_columns_of_a_known_crop_are_refused(tmp_path: Path, column: str, value: str) -> None:
    """A corrected certainty or further column used to be dropped without a word."""
    root = tmp_path / "table"
    root.mkdir()
    (root / "a.png").write_bytes(CROP)
    row = {"path": "a.png", "type": "touching", "case": "p1", "label_certain": "no", "stain": "G-band"}
    table(root, [row])
    import_sources([root], tmp_path / "data")
    assert import_sources([root], tmp_path / "data").unchanged == 1
    table(root, [row | {column: value}])
    with pytest.raises(ImportRefused, match=rf"another {column}.*{value if column == 'stain' else ''}.*--replace"):
        import_sources([root], tmp_path / "data")


def test_both_real_sources_come_in(shared_data: Path, tmp_path: Path) -> None:
    clinical, mfish = shared_data / "clinical-12-cases", shared_data / "mfish-slides"
    first = import_sources([clinical], tmp_path / "data")
    assert first.types == {"instance": 395, "touching": 45, "overlapping": 17, "touching-overlapping": 7}
    second = import_sources([mfish], tmp_path / "data")
    assert second.types == {"instance": 3822, "touching": 503, "overlapping": 162, "touching-overlapping": 106}
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert frame.groupby("source")["case_id"].nunique().to_dict() == {"clinical-12-cases": 12, "mfish-slides": 20}
    assert (~frame.loc[frame["source"] == "mfish-slides", "label_certain"]).sum() == 121
    assert (tmp_path / "data" / "crops" / "mfish-slides" / "LICENSE.txt").is_file()


def test_a_page_of_stacks_is_taken_in_as_a_picture_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "lab" / "instance"
    folder.mkdir(parents=True)
    planes = [Image.fromarray(draw_crop(seed)) for seed in (1, 2)]
    planes[0].save(folder / "stack.tif", save_all=True, append_images=planes[1:])
    with pytest.raises(ImportRefused, match=r"stack of 2 planes. Name one with --page 1 to 2"):
        import_sources([tmp_path / "lab"], tmp_path / "data")
    report = import_sources([tmp_path / "lab"], tmp_path / "data", page=2)
    assert report.notes["plane 2 of 2 used"] == 1
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert np.array_equal(decode_crop(tmp_path / "data" / frame["path"][0]), draw_crop(2))
    assert import_sources([tmp_path / "lab"], tmp_path / "data", page=2).unchanged == 1


def test_a_folder_of_other_things_is_not_replaced(source: Path, tmp_path: Path) -> None:
    """supcam import --into of a folder with other files put them aside, and deleted them."""
    home = tmp_path / "documents"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(UsageError, match=r"holds files but no manifest.csv"):
            import_sources([source], home, replace=replace)
    assert contents(home) == {"thesis.txt": b"years of work"}


def with_method(archive: Path, number: int, flags: int = 0) -> Path:
    """The zip, its crops said to be packed by another method, or encrypted."""
    content = bytearray(archive.read_bytes())
    for signature, flag_at, method_at in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        start = content.find(signature)
        while start >= 0:
            content[start + flag_at] |= flags
            content[start + method_at : start + method_at + 2] = number.to_bytes(2, "little")
            start = content.find(signature, start + 4)
    archive.write_bytes(content)
    return archive


CROPS = [(f"lab/{kind}/{index}.png", CROP) for kind in ("instance", "touching") for index in range(3)]


@pytest.mark.parametrize(
    ("number", "flags", "message"),
    [
        (9, 0, r"is packed with Deflate64, which is not read.*Make the zip again with Deflate"),
        (98, 0, r"is packed with PPMd"),
        (77, 0, r"is packed with method 77"),
        (8, 1, r"6 of 6 files in .* are encrypted. Make the zip again without a password"),
        (99, 1, r"are encrypted"),
    ],
)
def test_what_concerns_a_whole_zip_is_said_once(tmp_path: Path, number: int, flags: int, message: str) -> None:
    """Each crop was named by itself, with the advice to download the zip again."""
    archive = with_method(pack(tmp_path / "lab.zip", CROPS), number, flags)
    with pytest.raises(UsageError, match=message) as caught:
        import_sources([archive], tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lab.zip", b"Rar!\x1a\x07\x00", "is a RAR archive, not a zip. Unpack it"),
        ("lab.zip", b"7z\xbc\xaf\x27\x1c", "is a 7z archive, not a zip"),
        ("lab.zip", b"\0" * 257 + b"ustar", "is a tar archive, not a zip"),
        ("lab.zip", b"\n<!DOCTYPE html><html>", "is a web page, not a zip. Download the zip again"),
        ("lab.zip", b"PK nothing", "is not a readable zip"),
        ("lab.7z", b"7z\xbc\xaf", "is an archive that is not read; a zip is"),
        ("lab.xlsx", b"PK", r"is a spreadsheet. Save it as CSV \(UTF-8\)"),
        ("lab.docx", b"PK", "is not a folder, zip or CSV table"),
    ],
)
def test_other_kinds_of_file_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        import_sources([tmp_path / name], tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_archives_inside_a_source_are_named(source: Path, tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", CROPS).read_bytes()
    with pytest.raises(UsageError, match=r"source 'outer' holds no crop but inner.zip.* unpack it and import that"):
        import_sources([pack(tmp_path / "outer.zip", [("inner.zip", inner)])], tmp_path / "data")
    (source / "more.zip").write_bytes(inner)
    assert import_sources([source], tmp_path / "data").ignored == {"archives, which are not unpacked": 1}
    (source / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(ImportRefused, match=r"labels\.xlsx is a spreadsheet. Save it as CSV"):
        import_sources([source], tmp_path / "other")


def test_a_map_works_for_the_names_in_a_table(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    root.mkdir()
    names = {
        "a.png": "single",
        "b.png": "touching \u2013 overlapping",
        "c.png": "\u63a5\u89e6",
        "d.png": "Touching\u200b",
    }
    for name in names:
        (root / name).write_bytes(CROP)
    table(root, [{"path": name, "type": kind} for name, kind in names.items()])
    with pytest.raises(ImportRefused, match=r"type 'single' is unknown.*--map single=TYPE"):
        import_sources([root], tmp_path / "data")
    report = import_sources([root], tmp_path / "data", type_map={"single": "instance", "\u63a5\u89e6": "touching"})
    assert report.types == {"touching": 2, "instance": 1, "touching-overlapping": 1}
    assert "lab: single = instance, \u63a5\u89e6 = touching" in report.lines()


@pytest.mark.parametrize("encoding", ["gbk", "big5", "cp932", "cp1252"])
def test_a_table_in_another_encoding_is_read_when_it_is_named(tmp_path: Path, encoding: str) -> None:
    name, root = "M\u00fcller" if encoding == "cp1252" else "\u4e2d\u5c71", tmp_path / "lab"
    root.mkdir()
    (root / "a.png").write_bytes(CROP)
    (root / "labels.csv").write_bytes(f"sep=;\npath;type;case\na.png;touching;{name}\n".encode(encoding))
    with pytest.raises(UsageError, match=r"line 3 is not a readable CSV in UTF-8.*--encoding gbk"):
        import_sources([root], tmp_path / "data")
    import_sources([root], tmp_path / "data", encoding=encoding)
    assert read_manifest(tmp_path / "data" / "manifest.csv")["case_id"].to_list() == [name]


def test_nobody_is_no_patient_and_formulas_are_text(tmp_path: Path) -> None:
    """A spreadsheet would run a cell that begins with =, + or @ when the manifest or a report of it is opened."""
    root = tmp_path / "lab"
    root.mkdir()
    rows = [("NA", "-0.5", "x"), ("=cmd|'/c calc'!A0", "+8", "@SUM(A1)"), ("-", "-5,+8", "=1+1"), ("p1", "-", "")]
    for index in range(len(rows)):
        (root / f"{index}.png").write_bytes(CROP)
    columns = ("case", "shift", "=note")
    table(root, [
        {"path": f"{index}.png", "type": "touching", **dict(zip(columns, row, strict=True))}
        for index, row in enumerate(rows)
    ])  # fmt: skip
    report = import_sources([root], tmp_path / "data")
    frame = read_manifest(tmp_path / "data" / "manifest.csv")
    assert frame[["case_id", "shift", "'=note"]].to_numpy().tolist() == [
        ["", "-0.5", "x"],
        ["'=cmd|'/c calc'!A0", "+8", "'@SUM(A1)"],
        ["", "'-5,+8", "'=1+1"],
        ["p1", "-", ""],
    ]
    assert report.notes["have the case 'NA', which is read as no case"] == 1
    assert import_sources([root], tmp_path / "data").unchanged == 4
    (root.rename(tmp_path / "=lab"))
    with pytest.raises(UsageError, match="cannot name crops"):
        import_sources([tmp_path / "=lab"], tmp_path / "data")


def test_a_case_kept_as_na_by_an_older_import_is_still_the_same(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    root.mkdir()
    (root / "a.png").write_bytes(CROP)
    table(root, [{"path": "a.png", "type": "touching", "case": "NA"}])
    import_sources([root], tmp_path / "data")
    manifest = tmp_path / "data" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("touching,,lab", "touching,NA,lab"))
    assert read_manifest(manifest)["case_id"].to_list() == ["NA"]
    assert import_sources([root], tmp_path / "data").unchanged == 1


def test_patients_in_two_sources_or_two_spellings_are_named(tmp_path: Path) -> None:
    """Of eight patients that were photographed in two years five lay in two parts, without a word."""
    for name, cases in (("2024", ["P01", "P02", "1"]), ("2025", ["P01", "p02", "1.0"])):
        root = tmp_path / name
        root.mkdir()
        for index in range(3):
            (root / f"{index}.png").write_bytes(CROP)
        table(root, [{"path": f"{n}.png", "type": "touching", "case": case} for n, case in enumerate(cases)])
    report = import_sources([tmp_path / "2024", tmp_path / "2025"], tmp_path / "data")
    several, spelled = report.warnings
    assert several == (
        "case ids 1 (in 2024 and 2025), P01 (in 2024 and 2025), P02 (in 2024 and 2025) are in several sources. "
        "Each is taken for one patient; if not, set split.same_case: apart"
    )
    assert spelled.startswith("case ids 1 (also written 1.0), P02 (also written p02) are written in several ways")
    assert f"warning: {several}" in report.lines()


def test_a_full_disk_is_one_line(source: Path, dvc_project: Path) -> None:
    """RLIMIT_FSIZE ends a write as a full disk does: without a name of the file."""
    data = dvc_project / "data"
    import_sources([source], data)
    before = contents(data)
    write_source(dvc_project.parent / "more", per_type=2, seed=5)
    command = [
        sys.executable,
        "-c",
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)); from supcam.cli import main; main()",
        "import",
        str(dvc_project.parent / "more"),
        "--into",
        str(data),
    ]
    done = subprocess.run(command, cwd=dvc_project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    # Whichever writes first meets it: the import, or the database of DVC.
    assert done.stderr.count("\n") == 1
    assert ("File too large" in done.stderr and "free some space" in done.stderr) or "disk I/O error" in done.stderr
    assert contents(data) == before
