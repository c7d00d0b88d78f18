"""The commands about models, called as a user calls them: what they print, and the exit codes of the design."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from supcam.cli import main
from supcam.registry.store import Registry
from supcam.settings import profile_path
from tests.conftest import Call
from tests.registry.conftest import drawn_crops
from tests.registry.crops import go


@pytest.fixture
def project(first_promoted: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a few crops whose registry holds two versions, the first in production."""
    folder = tmp_path / "project"
    (folder / "crops").mkdir(parents=True)
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    shutil.copy(profile_path("sample"), folder / "params.yaml")
    for index, crop in enumerate(drawn_crops(4, 6)):
        Image.fromarray(crop).save(folder / "crops" / f"{index}.png")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first_promoted.uri)
    return folder


def test_predict_prints_a_table_or_the_whole_answer(project: Path, call: Call) -> None:
    code, out, err = call("predict", "crops")
    assert (code, err) == (0, "")
    assert "confidence" in out and "p_instance" not in out
    counted = re.findall(r"^(?:instance|touching|overlapping|touching-overlapping|no type) +(\d) +(\d)", out, re.M)
    assert sum(int(crops) for crops, _ in counted) == sum(int(review) for _, review in counted) == 4
    assert "4 images, 0 failed, 4 need review (no grey values 4" in out  # drawn bars
    (project / "crops" / "bad, broken.png").write_bytes(b"none")
    code, out, err = call("predict", "crops", "--output", "-")
    table = pd.read_csv(io.StringIO(out))
    assert code == 1 and "bad, broken.png" in err
    assert list(table.columns) == [
        "path", "type", "confidence", "p_instance", "p_touching", "p_overlapping", "p_touching_overlapping",
        "needs_review", "reason", "error",
    ]  # fmt: skip
    assert "5 images, 1 failed" in err and table["reason"].str.contains("unreadable").sum() == 1
    assert len(table) == 5 and table["error"].notna().sum() == 1
    assert call("predict", "crops", "--output", "all.csv")[0] == 1
    assert (project / "all.csv").read_text(encoding="utf-8") == out


def test_a_terminal_of_another_encoding_gets_every_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(project / "crops" / "0.png", project / "crops" / "\u67d3.png")
    for options, written in (([], b"\\u67d3.png"), (["--output", "-"], "\u67d3.png".encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["supcam", "predict", "crops", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        stream.flush()
        assert ended.value.code in (0, None)
        assert written in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_route_and_pull(project: Path, call: Call) -> None:
    code, out, _ = call("route", "crops", "--into", "sorted")
    assert code == 0 and "review" in out and (project / "sorted" / "predictions.csv").is_file()
    assert call("route", "crops", "--into", "sorted")[0] == 2
    assert call("pull", "--into", "kept")[0] == 0
    assert call("predict", "crops", "--model", "kept")[0] == 0
    graph = project / "kept" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    code, _, err = call("predict", "crops", "--model", "kept")
    assert code == 1 and "model.onnx was changed" in err and "Traceback" not in err
    with (project / "params.yaml").open("a", encoding="utf-8") as params:
        params.write("  model_name: other\n")
    code, _, err = call("pull", "--into", "kept")
    assert code == 1 and "no model other is in production yet" in err


def test_explain_in_a_project_without_crops_and_outside_of_one(
    project: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a project it ended, though only the likeness to training crops needs one."""
    crop = project / "crops" / "0.png"
    assert call("pull", "--into", "kept")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    for folder, options in ((project, ()), (tmp_path / "elsewhere", ("--model", project / "kept"))):
        monkeypatch.chdir(folder)
        code, out, err = call("explain", crop, *options)
        assert code == 0 and "probability" in out and "no similar one is shown" in out, err
        with Image.open("explanation.png") as figure:
            assert figure.size[0] > 400
    code, _, err = call("explain", tmp_path / "none.png")
    assert code == 2 and "is not a file" in err
    code, _, err = call("explain", crop, "--output", tmp_path)
    assert code == 2 and "name a file in an existing folder" in err


def test_registry_from_promotion_to_rollback(project: Path, first_promoted: Registry, call: Call) -> None:
    code, out, _ = call("models")
    assert code == 0 and "production" in out and "sensitivity, touching" in out
    assert all(version.run_id in out for version in first_promoted.versions())  # whole: other commands take it
    code, out, _ = call("models", "--json")
    rows = json.loads(out)
    assert [row["version"] for row in rows] == [2, 1] and rows[0]["test_accuracy"] == 1.0
    assert rows[1]["aliases"] == "production" and rows[0]["training_seconds"] is None
    code, _, err = call("rollback")
    assert code == 1 and "none was in production before version 1" in err
    code, out, _ = call("diff", "production", "candidate")
    assert code == 0 and "code_hash" in out and "difference" in out
    code, out, _ = call("diff", "production", "candidate", "--json")
    assert {"entry": "code_hash", "production": "code-1", "candidate": "code-2", "difference": None} in json.loads(out)
    code, out, _ = call("diff", "production", "production")
    assert (code, out) == (0, "production and production have the same card: nothing differs\n")
    assert call("diff", "production", "9")[0] == 1
    go(first_promoted.uri, candidate=2)
    code, out, _ = call("rollback", "--reason", "misses crossings")
    assert code == 0 and "production is version 1 again" in out
    code, out, _ = call("history")
    assert code == 0 and "rolled back" in out and "misses crossings" in out
    code, out, _ = call("history", "--json")
    assert json.loads(out)[0]["why"] == "misses crossings"
    assert first_promoted.aliases()["production"] == 1


def test_promote_ends_with_the_code_of_its_outcome(project: Path, first_promoted: Registry, call: Call) -> None:
    assert call("import", _source(project))[0] == 0
    code, _, err = call("promote", "nope")
    assert code == 1 and "run 'nope' registered no model" in err
    code, _, err = call("promote")
    assert code == 1 and "no model supcam was registered for the present data" in err
    run = first_promoted.version(2).run_id
    params = project / "params.yaml"
    settings = params.read_text(encoding="utf-8")
    code, _, err = call("promote", run, "--force", "agreed with the clinic")
    assert code == 3 and "was refused: answers computed: 0 of 40" in err and "Production stays" in err
    fewer = re.sub("min_test_crops_per_type: .*", "min_test_crops_per_type: 1000", settings)
    params.write_text(fewer + "  allow_stored_answers: true\n", encoding="utf-8")
    code, _, err = call("promote", run)
    assert code == 3 and "split known: the model is of other data" in err and "macro_sensitivity against" in err
    assert first_promoted.aliases()["production"] == 1
    code, _, err = call("promote", run, "--force", " ")
    assert code == 2 and "has no reason" in err
    with first_promoted.lock():
        code, _, err = call("promote", run)
    assert code == 1 and "another promotion of supcam is running" in err
    code, out, _ = call("promote", run, "--force", "agreed with the clinic")
    assert code == 0 and "promoted (forced (agreed with the clinic)" in out
    assert first_promoted.aliases()["production"] == 2


def _source(project: Path) -> Path:
    folder = project / "labelled"
    for index, name in enumerate(("instance", "touching", "overlapping", "touching-overlapping")):
        (folder / name).mkdir(parents=True)
        shutil.copy(project / "crops" / f"{index}.png", folder / name / f"{name}.png")
    return folder


def test_a_registry_that_is_not_there(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri, words in (
        ("http://127.0.0.1:9", "does not answer"),
        (f"sqlite:///{tmp_path}/no.db", "there is no registry"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for command in (("models",), ("history",), ("rollback",), ("pull", "--into", tmp_path / "kept")):
            code, _, err = call(*command)
            assert code == 1 and words in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
