"""The report page holds every metric and needs no other file, also in a browser with the network cut off."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation.page import Judged, write_report
from supcam.settings import EvaluateSettings
from tests.data.test_page_in_browser import BROWSER, NAMES

SETTINGS = EvaluateSettings(bootstrap=100)


def crops(count: int = 80) -> CropSet:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "crop_id": [f"<b>crop</b> {row}" for row in range(count)],
            "type": [TYPE_LABELS[row % 4] for row in range(count)],
            "case_id": [f"case{row % 5}" for row in range(count)],
            "source": ["one" if row % 5 < 3 else "two" for row in range(count)],
            "label_certain": [row % 7 != 0 for row in range(count)],
        }
    )
    return CropSet(frame, [rng.integers(0, 255, (30, 20), dtype=np.uint8) for _ in range(count)])


def judged(made: CropSet, correct: float, seed: int, name: str) -> Judged:
    rng = np.random.default_rng(seed)
    answers = np.where(rng.random(len(made)) < correct, made.labels, rng.integers(0, 4, len(made)))
    probabilities = np.full((len(made), 4), 0.1)
    probabilities[np.arange(len(made)), answers] = 0.7
    return Judged(name, probabilities)


def test_crops_that_would_go_to_review_are_counted_and_listed(tmp_path: Path) -> None:
    made = crops()
    reasons = ["blank"] * 2 + ["several bodies; low confidence"] + [""] * 77
    answered = replace(judged(made, 0.9, 1, "model"), reasons=reasons)
    write_report([answered], made, SETTINGS, tmp_path, title="lab")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["reasons"] == {"blank": 2, "several bodies": 1, "low confidence": 1}
    note = "3 of 80 crops would go to review: blank 2, several bodies 1, low confidence 1"
    assert note in metrics["notes"] and note in (tmp_path / "report.html").read_text()
    listed = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert listed["reason"].tolist() == reasons


def test_page_and_json_hold_the_comparison(tmp_path: Path) -> None:
    made = crops()
    pair = [judged(made, 0.9, 1, "new <model>"), judged(made, 0.5, 2, "old")]
    write_report(pair, made, SETTINGS, tmp_path, title="lab & co")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    found = metrics["comparison"]
    assert found["accuracy"]["difference"] == pytest.approx(metrics["accuracy"] - found["accuracy"]["other_value"])
    assert found["accuracy"]["low"] <= found["accuracy"]["difference"] <= found["accuracy"]["high"]
    assert found["mcnemar"]["p_value"] < 0.05
    page = (tmp_path / "report.html").read_text()
    for text in (
        "Against old",
        "new &lt;model&gt;",
        "lab &amp; co",
        "McNemar p",
        "label_certain not no",
        "one: intervals rest on 3 cases only",
        'alt="Confusion matrix"',
        "Reliability",
    ):
        assert text in page
    assert "<b>crop" not in page and 'src="http' not in page
    within = page.partition('id="metrics">')[2].partition("</script>")[0]
    assert json.loads(within) == metrics


def test_correct_answers_have_no_errors_to_show(tmp_path: Path) -> None:
    made = crops()
    evaluation = write_report([judged(made, 1.0, 1, "best")], made, SETTINGS, tmp_path, title="lab")
    assert evaluation.metrics["accuracy"] == 1.0
    assert "<h2>Errors</h2>\n<p>None.</p>" in (tmp_path / "report.html").read_text()


def test_one_case_and_one_type_are_stated(tmp_path: Path) -> None:
    made = crops()
    one = made.subset(((made.frame["case_id"] == "case0") & (made.frame["type"] == "touching")).to_numpy())
    evaluation = write_report([judged(one, 1.0, 1, "model")], one, SETTINGS, tmp_path, title="lab")
    notes = " ".join(evaluation.metrics["notes"])
    assert "one case only" in notes and "no crop of type instance, overlapping" in notes
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    assert "not defined" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (np.full((80, 3), 1 / 3), "do not fit 80 crops and the 4 types"),
        (np.full((79, 4), 0.25), "do not fit 80 crops"),
        (np.full((80, 4), 0.3), "not probabilities"),
        (np.full((80, 4), np.nan), "not probabilities"),
    ],
)
def test_answers_of_another_label_set_are_refused(answers: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        write_report([Judged("other", answers)], crops(), SETTINGS, tmp_path / "out", title="lab")
    assert not (tmp_path / "out").exists()


def test_no_crop_is_refused(tmp_path: Path) -> None:
    nothing = crops().subset([])
    with pytest.raises(UsageError, match="no crop to evaluate"):
        write_report([Judged("model", np.zeros((0, 4)))], nothing, SETTINGS, tmp_path / "out", title="lab")


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")
def test_the_page_reads_well_without_network(tmp_path: Path) -> None:
    made = crops()
    write_report(
        [judged(made, 0.8, 1, "new"), judged(made, 0.5, 2, "old")], made, SETTINGS, tmp_path / "out", title="lab"
    )
    page = (tmp_path / "out" / "report.html").as_uri()
    offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [str(BROWSER), *offline, f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=120)
    assert "Sensitivity of each type" in done.stdout and "Against old" in done.stdout
    assert done.stdout.count("<figure") >= 8
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", "--window-size=1200,3000", page], check=True, timeout=120)
    assert (np.asarray(Image.open(picture).convert("L")) < 128).mean() > 0.005
