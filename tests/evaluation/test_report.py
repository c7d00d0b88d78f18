"""One evaluation: what it states, what it refuses, and files with the same bytes each time."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.report import Evaluation, evaluate
from supcam.settings import EvaluateSettings

FILES = {
    "metrics.json", "predictions.csv", "confusion.csv", "per_type.csv", "reliability.csv", "risk_coverage.csv",
    "roc.csv", "pr.csv", "confusion.png", "sensitivity.png", "reliability.png", "risk_coverage.png",
}  # fmt: skip


def crops(count: int, types: int = 4, cases: int = 12) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(count)
    labels = np.arange(count) % types
    frame = pd.DataFrame(
        {
            "crop_id": [f"crop {at:03}" for at in range(count)],
            "type": [TYPE_LABELS[label] for label in labels],
            "case_id": [str(at % cases) for at in range(count)],
            "source": ["one" if at % cases < cases / 2 else "two" for at in range(count)],
            "label_certain": [at % 5 != 0 for at in range(count)],
        }
    )
    return (rng.normal(size=(count, 4)) + 2 * np.eye(4)[labels]).astype(np.float32), frame


def judged(count: int = 240, types: int = 4, cases: int = 12) -> Evaluation:
    logits, frame = crops(count, types, cases)
    labels = np.arange(count) % types
    return evaluate(
        logits, frame, EvaluateSettings(bootstrap=200), validation_logits=logits[::2], validation_labels=labels[::2]
    )


def numbers(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in numbers(inner)]
    return [value]


def test_files_are_complete_strictly_valid_and_the_same_bytes(tmp_path: Path) -> None:
    images = [np.full((20 + at % 50, 30), 255 - at % 200, dtype=np.uint8) for at in range(240)]
    for name in ("first", "second"):
        judged().write(tmp_path / name, images)
    written = {path.name for path in (tmp_path / "first").iterdir()}
    assert written == FILES | {"errors.png"}
    for name in written:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    for name in written:
        if name.endswith(".png"):
            assert b"matplotlib" not in (tmp_path / "first" / name).read_bytes().lower()
            with Image.open(tmp_path / "first" / name) as picture:
                assert min(picture.size) > 100
    refuse = json.loads((tmp_path / "first" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert refuse["crops"] == 240 and refuse["cases"] == 12


def test_tables_agree_with_each_other(tmp_path: Path) -> None:
    evaluation = judged()
    evaluation.write(tmp_path)
    confusion = pd.read_csv(tmp_path / "confusion.csv")
    assert list(confusion.columns) == ["actual", "predicted"]
    predictions = pd.read_csv(tmp_path / "predictions.csv", dtype={"crop_id": str, "case_id": str})
    assert list(predictions.columns) == [
        "crop_id", "type", "predicted", "confidence", "p_instance", "p_touching", "p_overlapping",
        "p_touching_overlapping", "case_id", "source", "label_certain",
    ]  # fmt: skip
    accuracy = (predictions["type"] == predictions["predicted"]).mean()
    assert accuracy == pytest.approx(evaluation.metrics["accuracy"])
    assert (confusion["actual"] == confusion["predicted"]).mean() == pytest.approx(accuracy)
    per_type = pd.read_csv(tmp_path / "per_type.csv").set_index("type")
    assert per_type["sensitivity"].mean() == pytest.approx(evaluation.metrics["macro_sensitivity"], abs=1e-6)


def test_certain_labels_sources_and_validation_have_their_own_metrics() -> None:
    metrics = judged().metrics
    assert metrics["certain"]["crops"] == 192
    assert {name: part["crops"] for name, part in metrics["by_source"].items()} == {"one": 120, "two": 120}
    for part in (metrics["certain"], *metrics["by_source"].values()):
        assert part["accuracy_low"] < part["accuracy"] < part["accuracy_high"]
        assert part["macro_sensitivity_low"] < part["macro_sensitivity"] < part["macro_sensitivity_high"]
    assert metrics["by_source"]["one"]["cases"] == 6
    assert metrics["by_source"]["one"]["notes"][0] == "intervals rest on 6 cases only and are likely too narrow"
    assert metrics["validation"]["crops"] == 120 and 0 < metrics["validation"]["macro_sensitivity"] <= 1
    assert metrics["macro_sensitivity_low"] <= metrics["macro_sensitivity"] <= metrics["macro_sensitivity_high"]
    assert 0.1 < metrics["calibration_temperature"] < 10


@pytest.mark.parametrize(("types", "cases"), [(1, 12), (3, 12), (4, 1), (1, 1)])
def test_missing_types_and_single_cases_are_stated(tmp_path: Path, types: int, cases: int) -> None:
    evaluation = judged(40, types, cases)
    evaluation.write(tmp_path)
    text = (tmp_path / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=pytest.fail)
    for label in TYPE_LABELS[types:]:
        assert metrics["per_type"][label]["sensitivity"] is None
        assert any(label in note for note in metrics["notes"])
    assert (cases == 1) == any("one case only" in note for note in metrics["notes"])
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_no_validation_crops_means_no_temperature_and_a_note() -> None:
    logits, frame = crops(40)
    metrics = evaluate(logits, frame, EvaluateSettings()).metrics
    assert metrics["calibration_temperature"] is None and "validation" not in metrics
    assert any("none was fitted here" in note for note in metrics["notes"])


def test_what_cannot_be_judged_is_refused() -> None:
    logits, frame = crops(40)
    with pytest.raises(UsageError, match=r"there is no crop to evaluate"):
        evaluate(logits[:0], frame[:0], EvaluateSettings())
    with pytest.raises(UsageError, match=r"logits of shape \(40, 3\) do not fit 40 crops and the 4 types instance"):
        evaluate(logits[:, :3], frame, EvaluateSettings())
    with pytest.raises(UsageError, match=r"logits hold NaN or infinity"):
        evaluate(np.full((40, 4), np.nan), frame, EvaluateSettings())
    with pytest.raises(UsageError, match=r"type 'dicentric' is unknown"):
        evaluate(logits, frame.assign(type="dicentric"), EvaluateSettings())


def test_summary_shows_every_type_and_the_notes() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(judged(40, 3).summary("Fold 1"))
    text = console.export_text()
    assert all(label in text for label in (*TYPE_LABELS, "macro sensitivity", "accuracy", "Fold 1: 40 crops"))
    assert "no crop of type touching-overlapping" in text


def test_every_overall_metric_has_its_interval() -> None:
    metrics = judged().metrics
    for name in ("accuracy", "macro_sensitivity", "macro_auc", "kappa", "calibration_error"):
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"], name


def test_crops_without_a_case_stand_alone() -> None:
    """Two sources, one all correct and one all wrong: as two cases only 0, 1/2 and 1 could be drawn."""
    frame = pd.DataFrame({"crop_id": [str(at) for at in range(200)], "type": "instance"})
    frame["source"], frame["case_id"] = np.repeat(["one", "two"], 100), ""
    logits = np.eye(4)[np.repeat([0, 1], 100)] * 9
    metrics = evaluate(logits, frame, EvaluateSettings(bootstrap=500)).metrics
    assert 0.4 < metrics["accuracy_low"] < 0.5 < metrics["accuracy_high"] < 0.6
    assert metrics["cases"] == 0
    assert "no crop names its case: intervals resample crops and say nothing about other cases" in metrics["notes"]
    assert metrics["by_source"]["one"]["cases"] == 0
    console = Console(width=160, file=io.StringIO())
    console.print(Evaluation(metrics, pd.DataFrame(), np.zeros((4, 4), int)).summary())
    assert "200 crops of unknown cases" in console.file.getvalue()  # type: ignore[attr-defined]


def test_crops_without_a_case_among_others_are_counted() -> None:
    logits, frame = crops(240)
    frame.loc[frame["source"] == "two", "case_id"] = ""
    metrics = evaluate(logits, frame, EvaluateSettings(bootstrap=50)).metrics
    assert metrics["cases"] == 6
    assert "120 of 240 crops name no case and are resampled one by one, as if each were a case" in metrics["notes"]


@pytest.mark.parametrize(
    ("named", "alone", "stated"),
    [
        (12, 0, []),
        (3, 0, ["intervals rest on 3 cases only and are likely too narrow"]),
        (1, 0, ["one case only: intervals resample crops and say nothing about other cases"]),
        (0, 1, ["no crop names its case: intervals resample crops and say nothing about other cases"]),
        (0, 5, ["no crop names its case: intervals resample crops and say nothing about other cases"]),
        (
            3,
            20,
            [
                "intervals rest on 3 cases only and are likely too narrow",
                "20 of 32 crops name no case and are resampled one by one, as if each were a case",
            ],
        ),
        (
            1,
            20,
            [
                "intervals rest on 1 case only and are likely too narrow",
                "20 of 32 crops name no case and are resampled one by one, as if each were a case",
            ],
        ),
    ],
)
def test_what_intervals_rest_on_is_stated(named: int, alone: int, stated: list[str]) -> None:
    count = alone + (12 if named else 0)
    frame = pd.DataFrame({"crop_id": [str(at) for at in range(count)], "type": "instance", "source": "one"})
    frame["case_id"] = [""] * alone + [f"case{at % named}" for at in range(count - alone)]
    notes = evaluate(np.tile([3.0, 0, 0, 0], (count, 1)), frame, EvaluateSettings(bootstrap=20)).metrics["notes"]
    assert [note for note in notes if "case" in note] == stated
