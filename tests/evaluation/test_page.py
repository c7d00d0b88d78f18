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
    reasons = ["cut off at the edge"] * 2 + ["several bodies; low confidence"] + [""] * 77
    answered = replace(judged(made, 0.9, 1, "model"), reasons=reasons)
    write_report([answered], made, SETTINGS, tmp_path, title="lab")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["reasons"] == {"cut off at the edge": 2, "several bodies": 1, "low confidence": 1}
    note = "3 of 80 crops would go to review: cut off at the edge 2, several bodies 1, low confidence 1"
    assert note in metrics["notes"] and note in (tmp_path / "report.html").read_text()
    listed = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert listed["reason"].tolist() == reasons


def test_no_crops_count_for_no_metric(tmp_path: Path) -> None:
    """A blank picture was counted as an answer, right or wrong by chance."""
    made = crops()
    pair = [judged(made, 1.0, 1, "model"), judged(made, 0.5, 2, "other")]
    wrong = pair[0].probabilities.copy()
    wrong[:3] = np.roll(wrong[:3], 1, axis=1)
    reasons = ["blank", "blank", "no clear background; cut off at the edge"] + [""] * 77
    pair[0] = replace(pair[0], probabilities=wrong, reasons=reasons)
    write_report(pair, made, SETTINGS, tmp_path, title="lab")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["crops"], metrics["accuracy"]) == (77, 1.0)
    assert metrics["no_crops"] == {"blank": 2, "no clear background; cut off at the edge": 1}
    note = "3 of 80 pictures show no crop and were not judged: blank 2, no clear background; cut off at the edge 1"
    assert note in metrics["notes"]
    assert pd.read_csv(tmp_path / "no_crops.csv")["crop_id"].tolist() == made.frame["crop_id"].tolist()[:3]
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 77
    with pytest.raises(UsageError, match="none of the 80 pictures is a crop: blank"):
        write_report([replace(pair[0], reasons=["blank"] * 80)], made, SETTINGS, tmp_path, title="lab")


def test_risk_by_type_and_the_share_of_unlike_crops_are_given(tmp_path: Path) -> None:
    made = crops()
    answered = judged(made, 1.0, 1, "model")
    wrong = answered.probabilities.copy()
    touching = np.flatnonzero(made.labels == 1)
    wrong[touching[:6]] = np.roll(wrong[touching[:6]], 1, axis=1)
    reasons = np.array([""] * 80, dtype=object)
    reasons[touching[:2]] = "low confidence"
    reasons[made.labels == 0] = "unlike the training crops"
    answered = replace(answered, probabilities=wrong, reasons=reasons.tolist())
    write_report([answered], made, SETTINGS, tmp_path, title="lab", unlike=0.01)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    row = metrics["review"]["touching"]
    assert (row["crops"], row["answered"], row["risk"]) == (20, 0.9, 0.2) and row["low"] < 0.2 < row["high"]
    assert metrics["review"]["instance"]["answered"] == 0.0
    assert metrics["answered"] == {"crops": 58, "accuracy": 54 / 58}
    assert metrics["unlike_training"]["share"] == 0.25 and metrics["unlike_training"]["reliable"] is False
    sentence = "25 % of 80 crops are unlike the training crops, 1 % expected: answers are not to be relied on"
    assert sentence in metrics["notes"] and sentence in (tmp_path / "report.html").read_text()


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
