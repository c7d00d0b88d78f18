"""The model card: its bounds, what promotion misses in it, its bytes, and the hash of earlier versions."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import (
    AchievedRisk,
    CalibrationCard,
    CardSection,
    DataCard,
    InputCard,
    Metric,
    ModelCard,
    ParityCard,
    ReviewCard,
    TypeReviewCard,
    UnlikeCard,
    content_hash_of_earlier_versions,
    load_card,
)
from supcam.serving.engine import CARD_FILE, PREDICTIONS_FILE, PackageError
from tests.registry.small import make_card

COMPLETE = make_card().model_copy(update={"parity": ParityCard(difference=1e-6, crops=40)})
REVIEWED: dict[str, Any] = {"threshold": 0.8, "crops": 20}


@pytest.mark.parametrize(
    ("section", "within", "beyond"),
    [
        (InputCard, [{"size": 8}], [{"size": 7}, {"size": 32, "scale": "crop"}]),
        (CalibrationCard, [{"error": 0.0}, {"error": 1.0}, {"temperature": 0.01}], [{"error": -0.01}, {"error": 1.01}]),
        (CalibrationCard, [{}], [{"temperature": 0.0}]),
        (
            ParityCard,
            [{"difference": 0.0, "crops": 1}],
            [{"difference": -1e-9, "crops": 1}, {"difference": 0, "crops": 0}],
        ),
        (ReviewCard, [{"threshold": 0.0}, {"threshold": 1.0}], [{"threshold": -0.01}, {"threshold": 1.01}]),
        (ReviewCard, [{"coverage": 0.0}, {"coverage": 1.0}], [{"coverage": -0.01}, {"coverage": 1.01}]),
        (ReviewCard, [{"risk": 0.0}, {"risk": 1.0}], [{"risk": -0.01}, {"risk": 1.01}]),
        (UnlikeCard, [{"expected": 0.0}, {"expected": 1.0}], [{"expected": -0.01}, {"expected": 1.01}]),
        (
            UnlikeCard,
            [{"expected": 0.1, "share": 0.0}, {"expected": 0.1, "share": 1.0}],
            [{"expected": 0.1, "share": -0.01}, {"expected": 0.1, "share": 1.01}, {"expected": 0.1, "crops": -1}],
        ),
        (
            TypeReviewCard,
            [REVIEWED | {"threshold": 0.0}, REVIEWED | {"threshold": 1.0}, REVIEWED | {"crops": 0}],
            [REVIEWED | {"threshold": -0.01}, REVIEWED | {"threshold": 1.01}, REVIEWED | {"crops": -1}],
        ),
        (
            TypeReviewCard,
            [REVIEWED | {"risk": 0.0}, REVIEWED | {"risk": 1.0}],
            [REVIEWED | {"risk": -0.01}, REVIEWED | {"risk": 1.01}],
        ),
        (UnlikeCard, [{"expected": 0.1, "crops": 0}], [{"expected": 0.1, "crops": -1}]),
        (Metric, [{"value": 0.5}], [{"value": float("nan")}, {"value": 0.5, "name": "accuracy"}]),
    ],
)
def test_bounds(section: type[CardSection], within: list[dict[str, Any]], beyond: list[dict[str, Any]]) -> None:
    for values in within:
        made = section(**values)
        assert all(getattr(made, name) == value for name, value in values.items())
    for values in beyond:
        with pytest.raises(ValidationError):
            section(**values)


def test_what_was_not_measured_is_written_as_such() -> None:
    assert Metric(value=0.5).model_dump() == {"value": 0.5, "low": None, "high": None, "crops": None}
    assert CalibrationCard().model_dump() == {"temperature": 1.0, "error": None}
    assert AchievedRisk(crops=0).model_dump() == {"crops": 0, "answered": None, "risk": None, "low": None, "high": None}
    assert TypeReviewCard(**REVIEWED).model_dump() == {"threshold": 0.8, "crops": 20, "risk": None, "test": None}
    assert UnlikeCard(expected=0.1).model_dump() == {"expected": 0.1, "share": None, "crops": 0}
    assert ReviewCard().model_dump() == {
        "by_type": {},
        "unlike": None,
        "threshold": 0.0,
        "coverage": 1.0,
        "risk": None,
        "risk_coverage": [],
    }
    assert DataCard(manifest_hash="m", split_hash="s").model_dump() == {
        "manifest_hash": "m",
        "split_hash": "s",
        "composed_hash": "",
        "sources": [],
        "counts": {},
        "licences": {},
        "confirmed": {},
    }
    assert (make_card().format, make_card().licence, make_card().parity, make_card().versions) == (
        2,
        "Apache-2.0",
        None,
        {},
    )


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, []),
        ({"encoder": ""}, ["encoder"]),
        ({"code_hash": ""}, ["code_hash"]),
        ({"data": DataCard(manifest_hash="", split_hash="s")}, ["data.manifest_hash"]),
        ({"data": DataCard(manifest_hash="m", split_hash="")}, ["data.split_hash"]),
        ({"licence": ""}, ["licence"]),
        ({"intended_use": ""}, ["intended_use"]),
        ({"settings": {}}, ["settings"]),
        ({"limits": []}, ["limits"]),
        ({"metrics": {}}, ["metrics.accuracy", "metrics.macro_sensitivity"]),
        ({"sensitivity": {}}, [f"sensitivity.{label}" for label in TYPE_LABELS]),
        ({"parity": None}, ["parity"]),
        ({"parity": ParityCard(difference=0.0, crops=1)}, []),
        ({"calibration": CalibrationCard()}, ["calibration.error"]),
        ({"calibration": CalibrationCard(error=0.0)}, []),
        ({"review": ReviewCard()}, ["review.risk"]),
        ({"review": ReviewCard(risk=0.0)}, []),
    ],
)
def test_promotion_misses_what_is_empty_and_not_what_is_zero(change: dict[str, Any], missing: list[str]) -> None:
    assert COMPLETE.model_copy(update=change).missing() == missing


def test_a_card_is_the_same_bytes_whatever_the_order_and_reads_back(tmp_path: Path) -> None:
    turned = ModelCard.model_validate(dict(reversed(COMPLETE.model_dump().items())))
    text = COMPLETE.to_json()
    assert turned.to_json() == text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    (tmp_path / CARD_FILE).write_text(text)
    assert load_card(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"types": list(reversed(TYPE_LABELS))}, "types: Value error, allowed are instance, touching, overlapping"),
        ({"input": {"size": 4}}, "input.size: Input should be greater than or equal to 8"),
        ({"colour": "grey"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_card_that_is_wrong_says_where(change: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    (tmp_path / CARD_FILE).write_text(json.dumps(json.loads(COMPLETE.to_json()) | change))
    with pytest.raises(PackageError) as error:
        load_card(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / CARD_FILE} is not a card of format 2: {wrong}")


def test_the_hash_of_earlier_versions_covers_what_it_covered() -> None:
    files = {"model.onnx": "1", "split.csv": "2"}
    hashed = content_hash_of_earlier_versions(COMPLETE, files)
    assert hashed == content_hash_of_earlier_versions(COMPLETE, files | {CARD_FILE: "3", PREDICTIONS_FILE: "4"})
    by_type = {"touching": TypeReviewCard(**REVIEWED)}
    others = [
        content_hash_of_earlier_versions(COMPLETE, files | {"model.onnx": "5"}),
        content_hash_of_earlier_versions(COMPLETE, files, "shipped"),
        *(
            content_hash_of_earlier_versions(COMPLETE.model_copy(update=change), files)
            for change in (
                {"data": DataCard(manifest_hash="other", split_hash=COMPLETE.data.split_hash)},
                {"data": DataCard(manifest_hash=COMPLETE.data.manifest_hash, split_hash="other")},
                {"input": InputCard(size=COMPLETE.input.size + 1)},
                {"review": ReviewCard(threshold=0.5)},
                {"review": ReviewCard(by_type=by_type)},
                {"review": ReviewCard(by_type={"touching": by_type["touching"].model_copy(update={"threshold": 0.7})})},
            )
        ),
    ]
    assert len({hashed, *others}) == 1 + len(others)
    assert [one[:12] for one in (hashed, others[1], others[-2])] == ["c854ef52cff9", "e5f5d4795e0c", "49dae450dc02"]


def test_settings_of_other_types_are_written_as_text() -> None:
    text = COMPLETE.model_copy(update={"settings": {"folder": Path("data")}}).to_json()
    assert json.loads(text)["settings"] == {"folder": "data"}


def test_a_card_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        COMPLETE.encoder = "other"
    with pytest.raises(ValidationError, match="frozen"):
        COMPLETE.data.split_hash = "other"


def test_a_card_of_the_entries_that_are_needed_has_the_others_as_not_measured() -> None:
    needed = {"input", "encoder", "settings", "data", "code_hash", "metrics", "sensitivity"}
    card = ModelCard.model_validate(COMPLETE.model_dump(include=needed))
    assert (card.calibration, card.review, card.parity) == (CalibrationCard(), ReviewCard(), None)
