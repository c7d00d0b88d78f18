"""From a trained and judged model to the package that is registered: calibration, review threshold, card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.data.manifest import manifest_hash
from supcam.evaluation.calibration import fit_temperature, probabilities_of, risk_coverage
from supcam.models.classifier import InferenceModel
from supcam.registry.card import CalibrationCard, DataCard, InputCard, Metric, ModelCard, ReviewCard
from supcam.registry.package import package_model
from supcam.settings import Settings
from supcam.tracking import package_versions
from supcam.training.prediction import load_classifier

_METRICS = ("accuracy", "macro_sensitivity", "macro_specificity", "micro_specificity", "macro_precision", "macro_f1")
_SECTIONS = ("profile", "runtime", "input", "model", "split", "compose", "pretrain", "finetune")
_CURVE_POINTS = 20


def package_candidate(
    model_state: dict[str, Tensor],
    settings: Settings,
    out: Path,
    *,
    manifest: pd.DataFrame,
    hashes: Mapping[str, str],
    metrics: Mapping[str, Any],
    test: CropSet,
    validation_logits: NDArray[np.float32],
    validation_labels: NDArray[np.int64],
) -> Path:
    """Write the package of a model with its card, calibrated and with a review threshold, both from validation crops.

    Args:
        model_state: Weights of the classifier.
        settings: All settings, with the tuned values in place.
        out: Folder of the package, replaced as a whole.
        manifest: Every crop with its column ``split``.
        hashes: ``split``, ``composed`` and ``code`` hash.
        metrics: Metrics of the evaluation on the test crops.
        test: The test crops; parity of ONNX and torch is measured on them.
        validation_logits: (M, 4) logits of the validation crops.
        validation_labels: (M,) their types.

    Raises:
        GateRefused: when ONNX and torch differ by more than 1e-4.
    """
    scores = validation_logits.astype(np.float64)
    temperature = fit_temperature(scores, validation_labels) or 1.0
    module = InferenceModel(
        load_classifier(model_state, settings), views=settings.finetune.test_views, temperature=temperature
    ).eval()
    card = ModelCard(
        input=InputCard(size=settings.input.size, scale=settings.input.scale),
        encoder=settings.model.encoder,
        settings=_recorded_settings(settings),
        data=_data_card(manifest, hashes),
        code_hash=hashes["code"],
        metrics={name: metric for name in _METRICS if (metric := _metric(metrics, name)) is not None},
        sensitivity={label: _sensitivity(metrics["per_type"].get(label)) for label in TYPE_LABELS},
        validation=_numbers(metrics.get("validation") or {}),
        calibration=CalibrationCard(
            temperature=temperature,
            error=metrics.get("calibration_error_calibrated", metrics.get("calibration_error")),
        ),
        review=review_threshold(
            probabilities_of(scores, temperature), validation_labels, settings.promote.review_coverage
        ),
        versions=package_versions(),
    )
    return package_model(
        module,
        card,
        out,
        split=manifest,
        test=test.frame,
        canvases=test.canvas(settings.input.size, settings.input.scale),
    )


def review_threshold(probabilities: NDArray[np.float64], labels: NDArray[np.int64], coverage: float) -> ReviewCard:
    """Confidence below which crops go to review, so that the share ``coverage`` of validation crops is answered.

    Args:
        probabilities: (M, 4) calibrated, each row sums to 1.
        labels: (M,) types.
        coverage: Share of crops answered without review, 0-1.
    """
    if not len(labels):
        return ReviewCard()
    curve = risk_coverage(labels, probabilities)
    at = int(np.searchsorted(curve["coverage"].to_numpy(), coverage - 1e-12))
    chosen = curve.iloc[min(at, len(curve) - 1)]
    shown = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, min(_CURVE_POINTS, len(curve))).astype(int))]
    points = [(round(float(share), 6), round(float(risk), 6)) for share, risk in shown[["coverage", "risk"]].to_numpy()]
    return ReviewCard(
        threshold=float(chosen["threshold"]),
        coverage=float(chosen["coverage"]),
        risk=float(chosen["risk"]),
        risk_coverage=points,
    )


def _recorded_settings(settings: Settings) -> dict[str, Any]:
    values = settings.model_dump(mode="json", by_alias=True)
    del values["compose"]["workers"], values["runtime"]["progress"]
    return {name: values[name] for name in _SECTIONS}


def _data_card(manifest: pd.DataFrame, hashes: Mapping[str, str]) -> DataCard:
    counts = {
        str(part): {str(label): int(count) for label, count in rows["type"].value_counts().sort_index().items()}
        for part, rows in manifest.groupby("split")
    }
    return DataCard(
        manifest_hash=manifest_hash(manifest),
        split_hash=hashes["split"],
        composed_hash=hashes["composed"],
        sources=sorted(manifest["source"].unique()),
        counts=counts,
    )


def _metric(metrics: Mapping[str, Any], name: str) -> Metric | None:
    value = metrics.get(name)
    if value is None:
        return None
    return Metric(value=value, low=metrics.get(f"{name}_low"), high=metrics.get(f"{name}_high"), crops=metrics["crops"])


def _sensitivity(row: Mapping[str, Any] | None) -> Metric:
    # A type without a test crop has no sensitivity; crops = 0 makes the gate leave out its floor.
    if row is None or row["sensitivity"] is None:
        return Metric(value=0.0, crops=0)
    return Metric(
        value=row["sensitivity"], low=row["sensitivity_low"], high=row["sensitivity_high"], crops=row["count"]
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
