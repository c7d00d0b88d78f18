"""From a trained and judged model to the package that is registered: calibration, review threshold, card."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.data.manifest import is_confirmed, manifest_hash
from supcam.data.sources import is_licence
from supcam.evaluation.calibration import probabilities_of, risk_coverage
from supcam.evaluation.cases import case_groups
from supcam.evaluation.metrics import Floats, Ints
from supcam.evaluation.novelty import fit_novelty
from supcam.evaluation.repeats import METRICS
from supcam.evaluation.review import achieved_risk, type_thresholds
from supcam.models.classifier import ClusterClassifier, InferenceModel
from supcam.registry.card import (
    LIMITS,
    AchievedRisk,
    CalibrationCard,
    DataCard,
    InputCard,
    Metric,
    ModelCard,
    ReviewCard,
    TypeReviewCard,
    UnlikeCard,
)
from supcam.registry.package import package_model
from supcam.serving.gate import sure_enough
from supcam.serving.novelty import Novelty, statistics_of
from supcam.settings import PromoteSettings, Settings, without_effect
from supcam.tracking import package_versions

_SECTIONS = ("profile", "runtime", "input", "model", "split", "compose", "pretrain", "finetune")
_CURVE_POINTS = 20
_NOTICE = 300  # characters of a licence file that the card holds


def package_candidate(
    classifier: ClusterClassifier,
    settings: Settings,
    out: Path,
    *,
    manifest: pd.DataFrame,
    hashes: Mapping[str, str],
    metrics: Mapping[str, Any],
    training: CropSet,
    validation: CropSet,
    test: CropSet,
    validation_logits: NDArray[np.float32],
    test_logits: NDArray[np.float32],
    licences: Mapping[str, str] | None = None,
) -> Path:
    """Write the package of a model with its card, calibrated and with what goes to review, all from validation crops.

    Args:
        classifier: It is moved to the processor.
        settings: With the tuned values in place.
        out: Folder of the package, replaced as a whole.
        manifest: Every crop with its column ``split``.
        hashes: ``split``, ``composed`` and ``code`` hash.
        metrics: Those of the evaluation on the test crops, with the calibration temperature.
        training: Real training crops: crops unlike these go to review.
        validation: M crops, on which every threshold is set.
        test: N crops, on which the card says what the thresholds achieve, and parity of ONNX and torch is measured.
        validation_logits: (M, 4).
        test_logits: (N, 4).
        licences: Of the crops, see :func:`licence_notices`.

    Raises:
        GateRefused: when ONNX and torch differ by more than 1e-4.
    """
    temperature = metrics["calibration_temperature"] or 1.0
    calibrated, judged = (
        probabilities_of(logits.astype(np.float64), temperature) for logits in (validation_logits, test_logits)
    )
    cases = case_groups(training.frame)
    novelty = fit_novelty(training.images, validation.images, settings.promote.unlike_share, cases)
    review = review_card(calibrated, validation.labels, settings.promote, test=(judged, test.labels))
    # Parity is that of the plain layout, which whoever loads the weights gets.
    classifier.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    card = ModelCard(
        input=InputCard(size=settings.input.size, scale=settings.input.scale),
        encoder=settings.model.encoder,
        settings=_recorded_settings(settings),
        data=_data_card(manifest, hashes, licences or {}),
        code_hash=hashes["code"],
        metrics={name: _metric(metrics, name, "crops") for name in METRICS if metrics[name] is not None},
        sensitivity={label: _sensitivity(row) for label, row in metrics["per_type"].items()},
        validation={name: value for name, value in metrics.get("validation", {}).items() if value is not None},
        calibration=CalibrationCard(temperature=temperature, error=metrics["calibration_error_calibrated"]),
        review=review.model_copy(update={"unlike": _unlike(novelty, test)}),
        versions=package_versions(),
        limits=[*LIMITS, *_cannot_tell(test.frame, settings.promote.min_test_crops_per_type)],
    )
    return package_model(
        InferenceModel(classifier, views=settings.finetune.test_views, temperature=temperature),
        card,
        out,
        split=manifest,
        test=test.frame,
        canvases=test.canvas(settings.input.size, settings.input.scale),
        novelty=novelty,
        validation=validation,
    )


def _cannot_tell(test: pd.DataFrame, least: int) -> list[str]:
    """What the test part is too small to measure, for the limits of the card."""
    counts = test["type"].value_counts().reindex(list(TYPE_LABELS), fill_value=0)
    few = ", ".join(f"{label} ({count})" for label, count in counts.items() if count < least)
    return (
        [f"The test part has fewer than {least} crops of a type, too few to measure its sensitivity: {few}."]
        if few
        else []
    )


def _unlike(novelty: Novelty | None, test: CropSet) -> UnlikeCard | None:
    if novelty is None:
        return None
    unlike = novelty.unlike(np.stack([statistics_of(image) for image in test.images]))
    return UnlikeCard(expected=novelty.share, share=float(unlike.mean()), crops=len(test))


def review_card(
    probabilities: Floats, labels: Ints, settings: PromoteSettings, *, test: tuple[Floats, Ints] | None = None
) -> ReviewCard:
    """The confidence below which crops go to review, set on validation crops, and what it achieves on test crops.

    It keeps ``review_risk`` for each type, see :func:`type_thresholds`; where that is not set, it is the one from which
    the share ``review_coverage`` of the validation crops is answered.

    Args:
        probabilities: (M, 4) of the calibrated model.
        labels: (M,).
        settings: ``review_risk`` and ``review_coverage``.
        test: Probabilities (N, 4) and labels (N,) of the test crops.
    """
    if not len(labels):
        return ReviewCard()
    curve = risk_coverage(labels, probabilities)
    by_type: dict[str, TypeReviewCard] = {}
    if settings.review_risk is None:
        # 9 of 10 crops are a coverage of 0.9, whatever rounding makes of the share.
        at = int(np.searchsorted(curve["coverage"].to_numpy(), settings.review_coverage - 1e-12))
        threshold = float(curve["threshold"].iloc[min(at, len(curve) - 1)])
    else:
        rows = type_thresholds(probabilities, labels, settings.review_risk)
        threshold = max(row.threshold for row in rows.values())
        achieved = {} if test is None else _achieved(*test, threshold)
        by_type = {label: TypeReviewCard(**asdict(row), test=achieved.get(label)) for label, row in rows.items()}
    answered, wrong = sure_enough(probabilities, threshold), probabilities.argmax(axis=1) != labels
    shown = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, min(_CURVE_POINTS, len(curve))).astype(int))]
    points = [(round(share, 6), round(risk, 6)) for share, risk in shown[["coverage", "risk"]].to_numpy().tolist()]
    return ReviewCard(
        by_type=by_type,
        threshold=threshold,
        coverage=float(answered.mean()),
        risk=float(wrong[answered].mean()) if answered.any() else 0.0,
        risk_coverage=points,
    )


def _achieved(probabilities: Floats, labels: Ints, threshold: float) -> dict[str, AchievedRisk]:
    found = achieved_risk(labels, probabilities.argmax(axis=1), sure_enough(probabilities, threshold))
    return {label: AchievedRisk(**row) for label, row in found.items()}


def _recorded_settings(settings: Settings) -> dict[str, Any]:
    """What made the model: of each section the settings that change a result, and the name of the profile."""
    values = settings.model_dump(mode="json", by_alias=True, include=set(_SECTIONS))
    for name in without_effect():
        section, _, key = name.partition(".")
        if key and section in values:
            del values[section][key]
    return values


def licence_notices(data: Path) -> dict[str, str]:
    """The beginning of every licence file below a data folder, by its path there."""
    found = [path for path in sorted(data.rglob("*")) if is_licence(path.name) and path.is_file()]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in found}
    return {path.relative_to(data).as_posix(): " ".join(text.split())[:_NOTICE] for path, text in texts.items()}


def _data_card(manifest: pd.DataFrame, hashes: Mapping[str, str], licences: Mapping[str, str]) -> DataCard:
    return DataCard(
        manifest_hash=manifest_hash(manifest),
        split_hash=hashes["split"],
        composed_hash=hashes["composed"],
        sources=sorted(manifest["source"].unique()),
        licences=dict(licences),
        confirmed=manifest[is_confirmed(manifest)].groupby("split").size().to_dict(),
        counts={str(part): rows["type"].value_counts().to_dict() for part, rows in manifest.groupby("split")},
    )


def _metric(row: Mapping[str, Any], name: str, count: str) -> Metric:
    return Metric(value=row[name], low=row.get(f"{name}_low"), high=row.get(f"{name}_high"), crops=row[count])


def _sensitivity(row: Mapping[str, Any]) -> Metric:
    # A type without a test crop has no sensitivity; crops = 0 makes the gate leave out its floor.
    return Metric(value=0.0, crops=0) if row["sensitivity"] is None else _metric(row, "sensitivity", "count")
