"""The supcam command: what users do wrong ends with the exit code of the design, one clear message, nothing written."""

import io
import json
import re
import shutil
import socket
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from supcam.cli.models import _readable
from supcam.cli.tables import print_table
from supcam.settings import profile_path
from tests.conftest import Call
from tests.support.drawing import bar_crop, write_crop


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project without version control, and the working directory in it."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    shutil.copy(profile_path("sample"), tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def draw(path: Path, value: int = 90) -> Path:
    """A crop with one dark bar."""
    return write_crop(path, bar_crop(value))


def source(folder: Path) -> Path:
    """A folder per type with names as real ones have them."""
    for number, name in enumerate(("instance", "touching", "overlapping", "touching-overlapping")):
        draw(folder / name / f"case 1 ({name}).png", 60 + 10 * number)
    return folder


def test_import_takes_a_folder_per_type(project: Path, call: Call, tmp_path: Path) -> None:
    ended = call("import", source(tmp_path / "our crops"))
    assert ended.code == 0
    assert "4 crops added" in ended.out
    assert len((project / "data/manifest.csv").read_text(encoding="utf-8").splitlines()) == 5


def test_import_refuses_a_corrupt_image_and_writes_nothing(project: Path, call: Call, tmp_path: Path) -> None:
    folder = source(tmp_path / "crops")
    (folder / "touching" / "broken.tif").write_bytes(b"II*\x00 no more")
    ended = call("import", folder)
    assert ended.code == 2
    assert "broken.tif" in ended.err
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("path,type\na.png,twisted\n", ["twisted", "touching-overlapping"]),
        ("path,label\na.png,touching\n", ["type"]),
        ("path,type\nmissing.png,touching\n", ["missing.png"]),
        ("path,type,label_certain\na.png,touching,perhaps\n", ["perhaps"]),
    ],
)
def test_import_refuses_a_wrong_table(project: Path, call: Call, tmp_path: Path, table: str, words: list[str]) -> None:
    folder = tmp_path / "crops"
    draw(folder / "a.png")
    (folder / "labels.csv").write_text(table, encoding="utf-8")
    ended = call("import", folder)
    assert ended.code == 2
    for word in words:
        assert word in ended.err
    assert not (project / "data").exists()


def test_import_refuses_an_empty_folder(project: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = call("import", tmp_path / "empty")
    assert ended.code == 2
    assert "empty" in ended.err
    assert not (project / "data").exists()


def test_import_refuses_an_unknown_folder_name(project: Path, call: Call, tmp_path: Path) -> None:
    folder = source(tmp_path / "crops")
    draw(folder / "knotted" / "a.png")
    ended = call("import", folder)
    assert ended.code == 2
    assert "knotted" in ended.err
    assert not (project / "data").exists()


def test_validate_without_data_says_how_to_get_them(project: Path, call: Call) -> None:
    ended = call("validate")
    assert ended.code == 2
    assert "dvc pull data.dvc" in ended.err


def test_validate_ends_3_and_names_the_failing_crop(project: Path, call: Call, tmp_path: Path) -> None:
    assert call("import", source(tmp_path / "crops")).code == 0
    ended = call("validate")
    assert ended.code == 3
    assert "crops_per_type" in ended.err


def test_outside_a_project(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("validate")
    assert ended.code == 2
    assert "dvc.yaml" in ended.err


def test_predict_before_any_model_is_in_production(project: Path, call: Call) -> None:
    ended = call("predict", draw(project / "crop.png"))
    assert ended.code == 1
    assert "production" in ended.err
    assert "dvc repro" in ended.err


def production_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A production model that is there: what predict refuses before it answers does not depend on one."""
    monkeypatch.setattr("supcam.cli.models.load_production", lambda _uri: None)


def test_predict_on_a_path_that_does_not_exist(project: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    production_is_there(monkeypatch)
    ended = call("predict", project / "nothing.png")
    assert ended.code == 2
    assert "nothing.png does not exist" in ended.err


def test_predict_on_a_folder_without_images(project: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    production_is_there(monkeypatch)
    ended = call("predict", project)
    assert ended.code == 2
    assert "holds no image; searched for files ending in" in ended.err


@pytest.mark.parametrize("target", [".", "absent/types.csv"])
def test_predict_refuses_an_output_it_cannot_write_before_it_begins(project: Path, call: Call, target: str) -> None:
    ended = call("predict", draw(project / "crop.png"), "--output", project / target)
    assert ended.code == 2
    assert "name a file in an existing folder" in ended.err


def test_brackets_in_a_name_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(pd.DataFrame({"[b]path": ["a[/b].png", "[red]x.png"]}))
    printed = capsys.readouterr().out
    assert "a[/b].png" in printed
    assert "[red]x.png" in printed
    assert "[b]path" in printed


def test_a_folder_that_cannot_be_made_is_named(project: Path, call: Call) -> None:
    (project / "file").write_text("", encoding="utf-8")
    ended = call("synthesize", "--into", project / "file" / "below", "--crops", 96)
    assert ended.code == 1
    assert str(project / "file") in ended.err
    assert "Traceback" not in ended.err


def test_unknown_option_is_wrong_usage(call: Call) -> None:
    assert call("predict", "--colour", "red").code == 2


def test_profile_switches_and_protects_own_changes(project: Path, call: Call) -> None:
    assert call("profile", "real").code == 0
    assert (project / "params.yaml").read_text(encoding="utf-8") == profile_path("real").read_text(encoding="utf-8")
    (project / "params.yaml").write_text("profile: mine\n", encoding="utf-8")
    refused = call("profile", "sample")
    assert refused.code == 2
    assert "--replace" in refused.err
    assert (project / "params.yaml").read_text(encoding="utf-8") == "profile: mine\n"
    assert call("profile", "sample", "--replace").code == 0
    unknown = call("profile", "huge")
    assert unknown.code == 2
    assert "chrcluster, drawn, real, real_gpu, sample" in unknown.err


def test_settings_lists_every_setting_with_its_range(project: Path, call: Call) -> None:
    ended = call("settings")
    assert ended.code == 0
    assert "pretrain.margin" in ended.out
    assert "< 1.5707" in " ".join(ended.out.split())  # in a narrow table it goes on in the next line


def test_ui_names_the_page_of_the_server_that_keeps_the_runs(
    project: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.lab:5000")
    assert call("ui").out == "MLflow page: http://tracking.lab:5000\n"


def test_resplit_gives_up_the_split_that_is_there(project: Path, call: Call) -> None:
    ended = call("data", "resplit")
    assert ended.code == 2
    assert "dvc repro split" in ended.err
    assignments = project / "outputs" / "split" / "assignments.csv"
    assignments.parent.mkdir(parents=True)
    assignments.write_text("crop_id,group,split,protocol\n", encoding="utf-8")
    assert call("data", "resplit").code == 0
    assert not assignments.exists()


def test_synthesize_makes_what_import_takes(project: Path, call: Call, tmp_path: Path) -> None:
    assert call("synthesize", "--into", tmp_path / "drawn", "--crops", 24, "--cases", 2).code == 0
    assert call("synthesize", "--into", tmp_path / "drawn").code == 2
    ended = call("import", tmp_path / "drawn")
    assert ended.code == 0
    assert "24 crops added" in ended.out


def test_import_of_the_real_sources(project: Path, call: Call, shared_data: Path) -> None:
    ended = call("import", shared_data / "clinical-12-cases")
    assert ended.code == 0
    assert "464 crops added" in ended.out
    assert call("import", shared_data / "clinical-12-cases").out.startswith("0 crops added, 464 already there")


def test_the_version_is_printed(call: Call) -> None:
    assert call("--version").out.strip() == f"supcam {metadata.version('supcam')}"


def test_settings_as_json_have_meaning_and_range(project: Path, call: Call) -> None:
    rows = {row["setting"]: row for row in json.loads(call("settings", "--json").out)}
    assert rows["input.size"]["value"] == 64 and rows["input.size"]["unit"] == "px"
    assert rows["tune.margin"]["allowed"].startswith("two rising numbers") and rows["tune.margin"]["meaning"]


def test_a_taken_port_is_named_before_the_page_starts(project: Path, call: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = call("ui", "--port", port)
    assert ended.code == 2 and f"port {port} is taken" in ended.err and f"--port {port + 1}" in ended.err


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("supcam.cli.tables.Console", lambda: Console(file=stream, force_terminal=True, width=80))
    frame = pd.DataFrame({"path": ["a/very/long/" + "name/" * 30], "type": ["touching-overlapping"], "crops": [3]})
    print_table(frame, "A title")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80 and "touching-overlapping" in stream.getvalue()


def test_a_narrow_table_loses_no_character(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = "0123456789abcdef" * 2
    print_table(pd.DataFrame({"run": [run], "path": ["folder/" * 20], "needs_review": ["low confidence; blank"]}))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    assert run in printed and printed.count("/") == 20
    assert all(word in printed for word in ("low", "confidence;", "blank", "needs_", "review"))


def test_a_difference_of_cards_is_short_enough_to_read() -> None:
    rows = [
        ("metrics.accuracy.high", 0.9, 0.8, -0.1),
        ("metrics.accuracy.value", 0.8, 0.7, -0.1),
        ("review.by_type", "{}", None, None),
        ("review.by_type.touching.risk", None, 0.1, None),
        ("review.by_type.touching.crops", None, 30, None),
    ]
    frame = pd.DataFrame(rows, columns=["entry", "1", "2", "difference"], dtype=object)
    shown = _readable(frame)
    assert shown["entry"].tolist() == ["metrics.accuracy", "review.by_type.*"]
    assert shown.iloc[1, 1:3].tolist() == ["", "2 entries"]
