"""From trained weights to a package: the real classifier exported, its card filled, its review threshold chosen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.evaluation.report import evaluate
from supcam.models.classifier import ClusterClassifier, InferenceModel
from supcam.models.encoders import build_encoder
from supcam.registry.candidate import _cannot_tell, package_candidate, review_card
from supcam.registry.card import LIMITS, load_card
from supcam.serving.engine import Engine
from supcam.settings import PromoteSettings, parse_settings
from supcam.training.prediction import load_classifier, predict_logits
from tests.registry.conftest import drawn_crops

SETTINGS = parse_settings(
    {"input": {"size": 32}, "model": {"encoder": "resnet10"}, "evaluate": {"bootstrap": 50}, "runtime": {"threads": 1}}
)


def crop_set(part: str, seed: int, count: int = 24) -> CropSet:
    frame = pd.DataFrame(
        {
            "crop_id": [f"{part}{index}" for index in range(count)],
            "sha256": [f"{seed:02d}{index:062d}" for index in range(count)],
            "type": [TYPE_LABELS[index % 4] for index in range(count)],
            "case_id": [f"c{index % 3}" for index in range(count)],
            "source": "drawn",
            "split": part,
            "label_certain": True,
        }
    )
    return CropSet(frame, list(drawn_crops(count, seed, 44)))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], CropSet]:
    torch.manual_seed(0)
    state = ClusterClassifier(build_encoder(SETTINGS.model)).state_dict()
    training, validation, test = crop_set("train", 3), crop_set("validation", 1), crop_set("test", 2)
    reviewed = test.frame.assign(reader=["AB"] * 2 + ["CD"] + [""] * 21, label_certain=[True] * 2 + [False] * 22)
    seen = training.frame.assign(reviewed=["2026-11-28"] + [""] * 23)
    logits, test_logits = (predict_logits(state, part, SETTINGS) for part in (validation, test))
    judged = evaluate(
        test_logits,
        test.frame,
        SETTINGS.evaluate,
        validation_logits=logits,
        validation_labels=validation.labels,
    )
    out = package_candidate(
        load_classifier(state, SETTINGS),
        SETTINGS,
        tmp_path_factory.mktemp("candidate") / "package",
        manifest=pd.concat([seen, validation.frame, reviewed], ignore_index=True),
        hashes={"split": "s", "composed": "c", "code": "k"},
        metrics=judged.metrics,
        training=training,
        validation=validation,
        test=test,
        validation_logits=logits,
        test_logits=test_logits,
    )
    return out, state, test


def test_card_is_complete_and_calibrated(packaged: tuple[Path, dict[str, torch.Tensor], CropSet]) -> None:
    card = load_card(packaged[0])
    assert card.missing() == []
    assert card.data.counts["test"] == dict.fromkeys(sorted(TYPE_LABELS), 6)
    assert card.parity is not None and card.parity.difference <= 1e-4
    assert "macro_sensitivity" in card.validation
    assert all(metric.low is not None for metric in (*card.metrics.values(), *card.sensitivity.values()))
    assert len(card.review.risk_coverage) > 5
    assert card.review.threshold == max(row.threshold for row in card.review.by_type.values())
    assert [row.test.crops for row in card.review.by_type.values() if row.test] == [6] * 4


def test_the_card_counts_the_labels_that_a_person_confirmed(
    packaged: tuple[Path, dict[str, torch.Tensor], CropSet],
) -> None:
    assert load_card(packaged[0]).data.confirmed == {"test": 2, "train": 1}


def test_the_card_says_what_the_test_part_cannot_tell(
    packaged: tuple[Path, dict[str, torch.Tensor], CropSet],
) -> None:
    """A single touching-overlapping test crop gave a sensitivity of 0 or 1 that looked like one of a hundred."""
    assert load_card(packaged[0]).limits == list(LIMITS)  # six of each type, three are asked for
    few = packaged[2].frame.iloc[[0, 1, 2, 3, 4, 5, 8, 9]]  # 3 instance, 3 touching, 1 overlapping, 1 of both
    assert _cannot_tell(few, 3) == [
        "The test part has fewer than 3 crops of a type, too few to measure its sensitivity: overlapping (1), "
        "touching-overlapping (1)."
    ]
    assert "instance (3)" in _cannot_tell(few, 4)[0]


def test_package_answers_as_torch_does(packaged: tuple[Path, dict[str, torch.Tensor], CropSet]) -> None:
    """The same crops through the light client and through torch: decoding, canvas, views and calibration agree."""
    out, state, test = packaged
    engine = Engine(out)
    module = InferenceModel(
        load_classifier(state, SETTINGS), views=8, temperature=engine.card["calibration"]["temperature"]
    )
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(test.canvas(32))).numpy()
    got, errors, *_ = engine.predict(test.images)
    assert errors == [None] * len(test)
    assert np.abs(got - expected).max() < 1e-4


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_threshold_answers_at_least_the_wanted_share(count: int, coverage: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(4), count)
    labels = generator.integers(0, 4, count)
    chosen = review_card(probabilities, labels, PromoteSettings(review_risk=None, review_coverage=coverage))
    answered = probabilities.max(axis=1) >= chosen.threshold
    assert answered.mean() >= coverage - 1e-9
    assert answered.mean() < coverage + 1 / count + 1e-9
    wrong = probabilities.argmax(axis=1) != labels
    assert chosen.risk == pytest.approx(wrong[answered].mean())
    assert chosen.coverage == pytest.approx(answered.mean()) and chosen.by_type == {}


def test_card_says_what_the_threshold_promises_and_achieves_by_type() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 40)
    sides = [generator.dirichlet(1 + 2 * np.eye(4)[label]) for label in np.tile(labels, 2)]
    validation, test = np.array(sides[:160]), np.array(sides[160:])
    found = review_card(validation, labels, PromoteSettings(review_risk=0.1), test=(test, labels))
    answered = validation.max(axis=1) >= found.threshold
    assert found.threshold == max(row.threshold for row in found.by_type.values())
    assert 0 < found.coverage == answered.mean() < 1
    for at, row in enumerate(found.by_type.values()):
        wrong = (test.max(axis=1) >= found.threshold) & (test.argmax(axis=1) != labels) & (labels == at)
        assert row.test is not None and row.test.risk == pytest.approx(wrong.sum() / 40)
        assert row.test.low is not None and row.test.low <= row.test.risk
    assert review_card(np.empty((0, 4)), labels[:0], PromoteSettings()).threshold == 0.0
