"""One evaluation: metrics with intervals, predictions, curves, and the files they are written to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table
from sklearn.metrics import precision_recall_curve, roc_curve

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.errors import UsageError
from supcam.evaluation import calibration, figures
from supcam.evaluation.cases import (
    actual_types,
    case_groups,
    case_notes,
    certain_rows,
    count_of_cases,
    known_cases,
    source_rows,
)
from supcam.evaluation.intervals import Interval, bootstrap, probability_bootstrap, wilson
from supcam.evaluation.metrics import Floats, Ints, Metrics, classification_metrics, confusion
from supcam.files import write_text
from supcam.settings import EvaluateSettings

_SUBSET_METRICS = ("accuracy", "macro_sensitivity", "macro_specificity", "macro_f1", "macro_auc")
SUBSET_INTERVALS = ("accuracy", "macro_sensitivity")  # those of them with an interval
_NOT_FITTED = "calibration_temperature is null: none was fitted here, packaged models are calibrated already"


@dataclass
class Evaluation:
    """Everything known about a model on one set of crops.

    Attributes:
        metrics: Metrics, intervals and notes, as JSON; an undefined metric is None.
        predictions: One row per crop: ``crop_id, type, predicted, confidence, p_*, case_id, source, label_certain``.
        matrix: (4, 4) counts, rows actual, columns predicted.
        tables: Further tables by file name without suffix.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    matrix: Ints
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, out: Path, images: Sequence[NDArray[np.uint8]] | None = None) -> None:
        """Write metrics, tables and figures below ``out``, the same bytes for the same evaluation.

        The crops in the order of ``predictions`` make a contact sheet of errors.
        """
        write_text(out / "metrics.json", json.dumps(self.metrics, indent=2, allow_nan=False) + "\n")
        for name, table in {"predictions": self.predictions, **self.tables}.items():
            write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
        figures.draw_confusion(self.matrix, self.metrics, out / "confusion.png")
        figures.draw_sensitivity(self.metrics, out / "sensitivity.png")
        figures.draw_reliability(self.tables["reliability"], self.metrics, out / "reliability.png")
        figures.draw_risk_coverage(self.tables["risk_coverage"], out / "risk_coverage.png")
        if images is not None:
            figures.draw_errors(self.errors(), images, out / "errors.png")

    def errors(self) -> pd.DataFrame:
        """Rows of ``predictions`` with a wrong type, most confident first; the index is the number of the crop."""
        table = self.predictions.reset_index(drop=True)
        wrong = table[table["type"] != table["predicted"]]
        return wrong.sort_values(["confidence", "crop_id"], ascending=[False, True], kind="stable")

    def summary(self, title: str = "Test crops") -> Table:
        """A table for the terminal: overall metrics and one row per type, with intervals."""
        table = Table(title=f"{title}: {self.metrics['crops']} crops of {count_of_cases(self.metrics['cases'])}")
        for heading in ("", "crops", "sensitivity", "interval", "specificity", "precision", "AUC"):
            table.add_column(heading, justify="left" if not heading else "right")
        for label, row in self.metrics["per_type"].items():
            shown = [_percent(row[name]) for name in ("specificity", "precision", "auc")]
            table.add_row(label, str(row["count"]), *_with_interval(row, "sensitivity"), *shown)
        table.add_section()
        for name in ("macro_sensitivity", "accuracy"):
            table.add_row(name.replace("_", " "), str(self.metrics["crops"]), *_with_interval(self.metrics, name))
        if self.metrics["notes"]:
            table.caption = "\n".join(self.metrics["notes"])
        return table


def evaluate(
    logits: NDArray[Any],
    frame: pd.DataFrame,
    settings: EvaluateSettings,
    *,
    validation_logits: NDArray[Any] | None = None,
    validation_labels: Ints | None = None,
) -> Evaluation:
    """Judge a model by its logits on labelled crops.

    Args:
        logits: (N, 4) scores before softmax.
        frame: N rows of a manifest, in the same order; ``type`` is the truth, ``source/case_id`` the case.
        settings: Confidence, resamples, seed, bins.
        validation_logits, validation_labels: (M, 4) and (M,), for the calibration temperature and validation metrics.

    Raises:
        UsageError: when there is no crop, or the logits do not fit the crops or the four types.
    """
    _check(logits, len(frame))
    labels = actual_types(frame)
    probabilities = calibration.probabilities_of(logits)
    matrix = confusion(labels, probabilities.argmax(axis=1))
    found, intervals = _with_intervals(labels, probabilities, frame, settings)
    intervals |= probability_bootstrap(labels, probabilities[None], case_groups(frame), settings)
    reliability = calibration.reliability(labels, probabilities, settings.reliability_bins)
    metrics: dict[str, Any] = {"crops": len(labels), "cases": known_cases(frame), "confidence": settings.confidence}
    for name, value in found.values.items():
        metrics |= {name: value, **_bounds(name, intervals.get(name))}
    metrics |= _bounds("accuracy_wilson", wilson(int(np.trace(matrix)), len(labels), settings.confidence))
    metrics["calibration_error"] = calibration.calibration_error(reliability)
    metrics["negative_log_likelihood"] = calibration.negative_log_likelihood(logits, labels)
    fitted, calibrated = _fitted(logits, labels, validation_logits, validation_labels, settings.reliability_bins)
    metrics |= fitted
    metrics |= _bounds("calibration_error", intervals.get("calibration_error"))
    metrics["per_type"] = _per_type(found, matrix, settings.confidence)
    metrics |= _subsets(labels, probabilities, frame, settings)
    metrics["notes"] = found.notes + ([_NOT_FITTED] if metrics["calibration_temperature"] is None else [])
    predictions = prediction_table(frame, probabilities)
    tables = {
        "confusion": predictions[["type", "predicted"]].rename(columns={"type": "actual"}),
        "per_type": pd.DataFrame([{"type": label, **row} for label, row in metrics["per_type"].items()]),
        # That of the packaged model, which is calibrated where a temperature was fitted.
        "reliability": reliability if calibrated is None else calibrated,
        "risk_coverage": calibration.risk_coverage(labels, probabilities),
        **_curves(labels, probabilities),
    }
    return Evaluation(metrics, predictions, matrix, tables)


def prediction_table(frame: pd.DataFrame, probabilities: Floats) -> pd.DataFrame:
    """One row per crop: ``crop_id, type, predicted, confidence, p_*, case_id, source, label_certain``."""
    predicted = probabilities.argmax(axis=1)
    table = {
        "crop_id": frame["crop_id"].to_numpy(),
        "type": [ClusterType.parse(name).label for name in frame["type"]],
        "predicted": [TYPE_LABELS[index] for index in predicted],
        "confidence": probabilities.max(axis=1),
        **{f"p_{label.replace('-', '_')}": probabilities[:, index] for index, label in enumerate(TYPE_LABELS)},
    }
    kept = {name: frame[name].to_numpy() for name in ("case_id", "source", "label_certain") if name in frame}
    return pd.DataFrame({**table, **kept})


def _check(logits: NDArray[Any], rows: int) -> None:
    if rows == 0:
        raise UsageError(
            "there is no crop to evaluate; the part is empty. Import more cases or change the split shares."
        )
    if logits.shape != (rows, len(TYPE_LABELS)):
        raise UsageError(
            f"logits of shape {logits.shape} do not fit {rows} crops and the {len(TYPE_LABELS)} types "
            f"{', '.join(TYPE_LABELS)}. Evaluate a model of this label set on these crops."
        )
    if not np.isfinite(logits).all():
        raise UsageError("logits hold NaN or infinity: the model diverged. Lower the learning rate and train again.")


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _with_intervals(
    labels: Ints, probabilities: Floats, frame: pd.DataFrame, settings: EvaluateSettings
) -> tuple[Metrics, dict[str, Interval]]:
    """Metrics, with notes on what their intervals rest on, and those intervals by name."""
    found = classification_metrics(labels, probabilities)
    intervals, lost_notes = bootstrap(labels, probabilities.argmax(axis=1), case_groups(frame), settings)
    found.notes += [*case_notes(frame), *lost_notes]
    return found, intervals


def _fitted(
    logits: NDArray[Any],
    labels: Ints,
    validation_logits: NDArray[Any] | None,
    validation_labels: Ints | None,
    bins: int,
) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """What the validation part gives: the calibration temperature, the error with it, and the part's own metrics.

    The second is the reliability curve with that temperature, if any.

    The temperature must not be fitted on the crops it is judged on, which would make any model look calibrated.
    """
    if (
        validation_logits is None
        or validation_labels is None
        or (temperature := calibration.fit_temperature(validation_logits, validation_labels)) is None
    ):
        return {"calibration_temperature": None, "calibration_error_calibrated": None}, None
    calibrated = calibration.reliability(labels, calibration.probabilities_of(logits, temperature), bins)
    validation = classification_metrics(validation_labels, calibration.probabilities_of(validation_logits))
    return {
        "calibration_temperature": temperature,
        "calibration_error_calibrated": calibration.calibration_error(calibrated),
        "validation": {"crops": len(validation_labels), **{name: validation.values[name] for name in _SUBSET_METRICS}},
    }, calibrated


def _per_type(found: Metrics, matrix: Ints, confidence: float) -> dict[str, dict[str, Any]]:
    """Metrics of each type; within a type there are often too few cases to resample, so the interval is Wilson's."""
    intervals = [wilson(int(row[at]), int(row.sum()), confidence) for at, row in enumerate(matrix)]
    rows = zip(found.per_type.items(), intervals, strict=True)
    return {label: row | _bounds("sensitivity", interval) for (label, row), interval in rows}


def _subsets(labels: Ints, probabilities: Floats, frame: pd.DataFrame, settings: EvaluateSettings) -> dict[str, Any]:
    """The main metrics for certain labels only and for each source, where that differs from all crops."""

    def subset(rows: NDArray[np.bool_]) -> dict[str, Any]:
        found, intervals = _with_intervals(labels[rows], probabilities[rows], frame[rows], settings)
        values: dict[str, Any] = {"crops": int(rows.sum()), **{name: found.values[name] for name in _SUBSET_METRICS}}
        values["cases"] = known_cases(frame[rows])
        for name in SUBSET_INTERVALS:
            values |= _bounds(name, intervals.get(name))
        return values | {"notes": found.notes}

    certain, by_source = certain_rows(frame), source_rows(frame)
    found = {"certain": subset(certain)} if certain.any() and not certain.all() else {}
    return found | ({"by_source": {name: subset(rows) for name, rows in by_source.items()}} if by_source else {})


def _curves(labels: Ints, probabilities: Floats) -> dict[str, pd.DataFrame]:
    """ROC and precision-recall curves of each type that has crops on both sides."""
    roc, precision_recall = [], []
    for index, label in enumerate(TYPE_LABELS):
        actual = labels == index
        if 0 < actual.sum() < len(labels):
            fpr, tpr, _ = roc_curve(actual, probabilities[:, index])
            roc.append(pd.DataFrame({"type": label, "fpr": fpr, "tpr": tpr}))
            precision, recall, _ = precision_recall_curve(actual, probabilities[:, index], drop_intermediate=True)
            precision_recall.append(pd.DataFrame({"type": label, "recall": recall, "precision": precision}))
    # An empty frame gives the columns where no type has a curve; among others it would spoil the types of values.
    return {
        "roc": pd.concat(roc or [pd.DataFrame(columns=["type", "fpr", "tpr"])], ignore_index=True),
        "pr": pd.concat(precision_recall or [pd.DataFrame(columns=["type", "recall", "precision"])], ignore_index=True),
    }


def _with_interval(values: Mapping[str, Any], name: str) -> tuple[str, str]:
    low, high = values[f"{name}_low"], values[f"{name}_high"]
    return _percent(values[name]), "-" if low is None or high is None else f"{100 * low:.1f} - {100 * high:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
