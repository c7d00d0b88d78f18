"""The gate before every answer: no crop, no type; what is doubtful goes to review; and every output says why."""

import errno
import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from supcam.cli.app import app
from supcam.errors import UsageError
from supcam.evaluation.novelty import fit_novelty
from supcam.registry.client import Predictor, load_production, predict_files, route
from supcam.registry.package import write_checksums
from supcam.serving.engine import PROBABILITY_COLUMNS, PackageError
from supcam.serving.served import ServedClassifier
from tests.support.drawing import draw_crop, encode

BLANK = np.full((40, 40), 255, dtype=np.uint8)
CROP = draw_crop(1)
TWO_BODIES = np.hstack([np.pad(draw_crop(seed), 10, constant_values=255) for seed in (0, 5)])


def test_what_is_no_crop_has_no_type_and_what_is_doubtful_keeps_it(predictor: Predictor) -> None:
    frame = predictor.predict([CROP, BLANK, TWO_BODIES, b"no image"], errors="row")
    assert (frame["type"] == "").tolist() == [False, True, False, True]
    assert frame[["confidence", *PROBABILITY_COLUMNS]].isna().all(axis=1).tolist() == [False, True, False, True]
    assert frame["needs_review"].tolist()[1:] == [True, True, True]
    assert frame["reason"].tolist()[1] == "blank"
    assert "several bodies" in frame["reason"][2].split("; ")
    assert frame["reason"].tolist()[3] == "unreadable"


def test_low_confidence_is_a_reason_after_those_of_the_picture(predictor: Predictor) -> None:
    predictor._engine.threshold = 2.0
    frame = predictor.predict([CROP, BLANK, TWO_BODIES])
    assert frame["reason"].tolist() == ["low confidence", "blank", "several bodies; low confidence"]
    predictor._engine.threshold = 0.0
    assert predictor.predict(CROP)["reason"].tolist() == [""]
    assert not predictor.predict(CROP)["needs_review"][0]


def test_a_served_answer_is_json_even_without_a_type(package: Path) -> None:
    served = ServedClassifier(package)
    frame = served.predict(pd.DataFrame({"image": [encode(BLANK), encode(CROP)]}))
    rows = json.loads(json.dumps(frame.to_dict(orient="records"), allow_nan=False))
    assert (rows[0]["type"], rows[0]["confidence"], rows[0]["reason"]) == ("", None, "blank")
    assert 0 < rows[1]["confidence"] <= 1


def test_pyfunc_keeps_numbers_where_a_picture_has_no_type(package: Path) -> None:
    """Columns became objects as soon as one picture was no crop, and no mean could be taken of them."""
    answers = ServedClassifier(package).predict(pd.DataFrame({"image": [encode(BLANK), encode(CROP)]}))
    assert (answers[["confidence", *PROBABILITY_COLUMNS]].dtypes == np.float64).all()
    assert np.isnan(answers["confidence"][0]) and answers["confidence"].mean() > 0
    assert answers["needs_review"].dtype == bool


def test_mlflow_serves_no_type_as_null(package: Path) -> None:
    from mlflow.pyfunc.scoring_server import predictions_to_json

    answers = ServedClassifier(package).predict(pd.DataFrame({"image": [encode(BLANK), encode(CROP)]}))
    body = io.StringIO()
    predictions_to_json(answers, body)
    rows = json.loads(body.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["predictions"]
    assert (rows[0]["confidence"], rows[0]["reason"]) == (None, "blank") and rows[1]["confidence"] > 0


@pytest.fixture(scope="module")
def knowing(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A package that knows its training crops, and sends answers below a confidence of 0.6 to review."""
    copy = shutil.copytree(package, tmp_path_factory.mktemp("knowing") / "model")
    novelty = fit_novelty([draw_crop(seed) for seed in range(60)], [draw_crop(seed) for seed in range(60, 90)], 0.02)
    assert novelty is not None
    novelty.write(copy)
    card = json.loads((copy / "card.json").read_text())
    card["review"]["threshold"] = 0.6
    (copy / "card.json").write_text(json.dumps(card))
    write_checksums(copy)
    return load_production(str(copy))


PALE = [np.asarray(255 - (255 - draw_crop(seed).astype(int)) // 3, dtype=np.uint8) for seed in range(20)]


def test_crops_unlike_the_training_crops_go_to_review_and_keep_their_type(knowing: Predictor) -> None:
    frame = knowing.predict([*PALE, BLANK])
    assert all("unlike the training crops" in text.split("; ") for text in frame["reason"][:20])
    assert (frame["type"] != "").tolist() == [True] * 20 + [False]
    assert frame["needs_review"].all() and frame["reason"][20] == "blank"
    fresh = knowing.predict([draw_crop(seed) for seed in range(100, 140)])
    assert fresh["reason"].str.contains("unlike").mean() <= 0.1


def test_a_folder_of_unlike_crops_is_named_in_summary_and_numbers(knowing: Predictor, tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    for number, crop in enumerate([*PALE, BLANK]):
        (tmp_path / "sent" / f"{number}.png").write_bytes(encode(crop))
    found = predict_files(knowing, [tmp_path / "sent"])
    sentence = "100 % of 20 crops are unlike the training crops, 2 % expected: answers are not to be relied on"
    assert found.summary().endswith(f"; {sentence}")
    routed = route(knowing, [tmp_path / "sent"], tmp_path / "sorted")
    written = json.loads((tmp_path / "sorted" / "summary.json").read_text())
    assert written == routed.as_dict() and written["unlike_training"]["share"] == 1.0
    assert written["unlike_training"]["expected"] == 0.02 and written["unlike_training"]["reliable"] is False
    assert written["reasons"]["blank"] == 1 and written["images"] == 21


def test_predict_writes_its_summary_as_json(knowing: Predictor, tmp_path: Path) -> None:
    (tmp_path / "crop.png").write_bytes(encode(PALE[0]))
    given = ["predict", tmp_path / "crop.png", "--model", knowing.package, "--summary", tmp_path / "summary.json"]
    done = CliRunner().invoke(app, list(map(str, given)))
    assert done.exit_code == 0, done.output
    assert "100 % of 1 crops are unlike the training crops" in done.output
    assert json.loads((tmp_path / "summary.json").read_text())["unlike_training"]["unlike"] == 1


def test_threshold_of_the_card_decides_about_confidence(knowing: Predictor) -> None:
    frame = knowing.predict([draw_crop(seed) for seed in range(100, 160)])
    low = frame["reason"].str.contains("low confidence")
    assert 0 < low.sum() < len(frame) and (low == (frame["confidence"] < knowing.card["review"]["threshold"])).all()


def test_a_package_of_an_earlier_version_answers_without_both(predictor: Predictor) -> None:
    assert predictor.expected_unlike is None
    assert not predictor.predict(PALE)["reason"].str.contains("unlike").any()


def test_a_changed_novelty_file_is_found(knowing: Predictor, tmp_path: Path) -> None:
    copy = shutil.copytree(knowing.package, tmp_path / "copy")
    (copy / "novelty.npz").write_bytes(b"PK" + (copy / "novelty.npz").read_bytes()[2:-1])
    with pytest.raises(PackageError, match=r"novelty.npz was changed"):
        load_production(str(copy))


def test_pillow_images_and_pages_of_stacks(predictor: Predictor, tmp_path: Path) -> None:
    expected = predictor.predict(CROP)
    pd.testing.assert_frame_equal(predictor.predict(Image.fromarray(CROP)), expected)
    stack = tmp_path / "stack.tif"
    Image.fromarray(BLANK).save(stack, save_all=True, append_images=[Image.fromarray(CROP)])
    found = predict_files(predictor, [stack], page=2)
    assert found.frame["type"].tolist() == expected["type"].tolist()
    assert "--page 1 to 2" in predict_files(predictor, [stack]).frame["error"][0]


def test_three_planes_may_be_channels_or_crops(predictor: Predictor) -> None:
    with pytest.raises(UsageError, match=r"shape \(3, 40, 30\) may be one crop .* or three crops"):
        predictor.predict(np.stack([CROP] * 3))


@pytest.fixture
def mess(tmp_path: Path) -> Path:
    """A folder as people send it: crops, litter, a pipe, and a link to a file that was not sent."""
    folder = tmp_path / "sent"
    (folder / "__MACOSX").mkdir(parents=True)
    (folder / "crop.png").write_bytes(encode(CROP))
    (folder / "named.gif").write_bytes(encode(CROP, "GIF"))
    for name in ("._crop.png", "__MACOSX/crop.png", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"litter")
    (tmp_path / "private.png").write_bytes(encode(BLANK))
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "inside.png").symlink_to("crop.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_litter_is_ignored_and_pipes_and_links_are_refused_without_waiting(predictor: Predictor, mess: Path) -> None:
    answers: list[pd.DataFrame] = []
    waiting = threading.Thread(target=lambda: answers.append(predict_files(predictor, [mess]).frame), daemon=True)
    waiting.start()
    waiting.join(60)
    assert answers, "still waiting for the other end of a pipe"
    errors = dict(zip((Path(path).name for path in answers[0]["path"]), answers[0]["error"], strict=True))
    assert [name for name, error in errors.items() if not error] == ["crop.png", "inside.png", "named.gif"]
    assert errors["link.png"].endswith("is a link out of the folder. Replace it by its file.")
    assert "is a named pipe" in errors["pipe.png"]
    assert predict_files(predictor, [mess]).ignored == {"hidden files": 2, ".db": 1, ".txt": 1}


def test_a_folder_that_may_not_be_read_is_an_error_row(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its crops were left out without a word. (Root may read everything, so the refusal is put in by hand.)"""
    for name in ("open", "closed", ".cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "crop.png").write_bytes(encode(CROP))

    def scandir(path: str) -> object:
        if Path(path).name in {"closed", ".cache"}:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scanned(path)

    scanned = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    frame = predict_files(predictor, [tmp_path]).frame
    assert frame["path"].tolist() == [str(tmp_path / "closed"), str(tmp_path / "open" / "crop.png")]
    assert frame["error"][0] == f"{tmp_path / 'closed'} cannot be opened: Permission denied. Allow reading it."
    assert not frame["error"][1]


def test_summary_counts_review_by_reason(predictor: Predictor, tmp_path: Path) -> None:
    predictor._engine.threshold = 0.0
    for name, crop in (("a.png", CROP), ("b.png", BLANK), ("c.png", BLANK), ("d.png", TWO_BODIES)):
        (tmp_path / name).write_bytes(encode(crop))
    (tmp_path / "e.doc").write_bytes(b"text")
    assert predict_files(predictor, [tmp_path]).summary() == (
        "4 images, 0 failed, 3 need review (blank 2, several bodies 1), 1 other files ignored (.doc 1)"
    )


def test_route_copies_no_target_of_a_link_out_of_the_folder(predictor: Predictor, mess: Path, tmp_path: Path) -> None:
    routed = route(predictor, [mess], tmp_path / "sorted")
    written = ("predictions.csv", "summary.json")
    copied = [path for path in (tmp_path / "sorted").rglob("*.*") if path.name not in written]
    assert sorted(path.name for path in copied) == ["crop.png", "inside.png", "named.gif"]
    written = pd.read_csv(tmp_path / "sorted" / "predictions.csv", keep_default_na=False)
    where = dict(zip((Path(path).name for path in written["path"]), written["routed_to"], strict=True))
    assert where["link.png"] == where["pipe.png"] == ""
    assert "reason" in written and routed.failed == 2


def test_names_that_are_not_utf8_are_answered(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    (folder / os.fsdecode(b"M\xfcller.png")).write_bytes(encode(CROP))
    routed = route(predictor, [folder], tmp_path / "sorted")
    assert routed.frame["path"][0].endswith(r"M\xfcller.png")
    assert routed.frame["error"][0] == ""
    assert len(list((tmp_path / "sorted").rglob("M*.png"))) == 1
