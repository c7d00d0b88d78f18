"""What MLflow shows of a version: description, metrics of the logged model, input example, and who trained it."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import Metric, load_card
from supcam.registry.description import confusion_matrix, describe, metric_values
from supcam.registry.history import models
from supcam.registry.registration import register_candidate
from supcam.registry.store import Registry, Tag
from supcam.serving.engine import ANSWER_COLUMNS
from tests.registry.conftest import MakePackage, make_card


def test_the_confusion_matrix_counts_every_test_crop(package: Path) -> None:
    matrix = confusion_matrix(package)
    answers = pd.read_csv(package / "test_predictions.csv")
    assert list(matrix.index) == list(matrix.columns) == list(TYPE_LABELS)
    assert matrix.to_numpy().sum() == len(answers)
    for label in TYPE_LABELS:
        assert matrix.loc[label].sum() == (answers["type"] == label).sum()


def test_the_description_is_the_card_in_markdown(make_package: MakePackage) -> None:
    card = make_card()
    licences = {"crops/lab/LICENSE": "Free for research | cite us"}
    data = card.data.model_copy(update={"licences": licences, "confirmed": {"test": 3, "train": 20}})
    sensitivity = card.sensitivity | {"overlapping": Metric(value=0.0, crops=0)}
    package = make_package(card=card.model_copy(update={"data": data, "sensitivity": sensitivity}))
    text = describe(package, load_card(package), commit="abc123", trained_by="#/experiments/1/runs/2")
    assert "| macro sensitivity |" in text
    assert "| sensitivity touching |" in text
    row = confusion_matrix(package).loc["touching"]
    assert f"| **touching** | {' | '.join(map(str, row))} |" in text
    assert "commit abc123" in text and "[run of fine-tuning](#/experiments/1/runs/2)" in text
    assert "Free for research / cite us" in text
    assert "| what made it | |" in text.splitlines()
    assert "| labels that a person confirmed | 23: 3 test, 20 train |" in text.splitlines()


def test_a_card_without_confirmed_labels_says_so(package: Path) -> None:
    assert "| labels that a person confirmed | 0 |" in describe(package, load_card(package)).splitlines()


def test_a_version_shows_metrics_example_commit_and_training(package: Path, registry_uri: str, run_id: str) -> None:
    registry = Registry(registry_uri, create=True)
    registry.client.set_tag(run_id, "mlflow.source.git.commit", "c0ffee")
    trained = {Tag.TRAINED_BY: "a" * 32, Tag.SECONDS: "90"}
    version = register_candidate(package, run_id=run_id, tracking_uri=registry_uri, tags=trained)
    shown = registry.client.get_model_version("supcam", str(version.number))
    assert "commit c0ffee" in shown.description and "a" * 32 in shown.description
    logged = registry.client.get_logged_model(version.tags[Tag.LOGGED])
    assert str(logged.status) == "READY" and logged.source_run_id == run_id
    assert {metric.key: metric.value for metric in logged.metrics} == metric_values(load_card(package))
    assert logged.params["encoder"] == "small"
    assert '"version": "1"' in logged.tags["mlflow.modelVersions"]
    (row,) = models(registry).to_dict("records")
    assert (row["commit"], row["training_seconds"], row["run"]) == ("c0ffee", 90.0, run_id)
    assert row["test_accuracy"] == pytest.approx(1.0)


def test_the_input_example_gets_an_answer(
    package: Path, registry_uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_uri)
    register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
    mlflow.set_tracking_uri(registry_uri)
    model = mlflow.pyfunc.load_model("models:/supcam@candidate")
    answer = model.predict(model.input_example)
    assert list(answer) == list(ANSWER_COLUMNS) and len(answer) == 1


def test_an_interrupted_registration_leaves_no_model_that_looks_finished(
    package: Path, registry_uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(registry_uri, create=True)

    def stop(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mlflow.MlflowClient.log_model_artifacts", stop)
    with pytest.raises(OSError, match="disk full"):
        register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
    experiment = registry.client.get_run(run_id).info.experiment_id
    (left,) = registry.client.search_logged_models([experiment])
    assert str(left.status) == "FAILED" and registry.versions() == []


def test_metrics_hold_no_level_of_confidence(package: Path) -> None:
    names = set(metric_values(load_card(package)))
    assert "confidence" not in names and {"accuracy", "macro_sensitivity"} <= names
