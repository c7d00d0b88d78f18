"""One evaluation: figures with intervals, predictions, curves, and the files they are written to."""

import json
from collections.abc import Sequence
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
from supcam.evaluation import calibration
from supcam.evaluation.intervals import Interval, bootstrap, probability_bootstrap, wilson
from supcam.evaluation.metrics import Floats, Ints, confusion, figures
from supcam.settings import EvaluateSettings

_SUBSET_FIGURES = ("accuracy", "macro_sensitivity", "macro_specificity", "macro_f1", "macro_auc")
ONE_CASE = "one case only: intervals resample crops and say nothing about other cases"
_FEW_CASES = 10
SUBSET_SPANS = ("accuracy", "macro_sensitivity")  # their figures with an interval


@dataclass
class Evaluation:
    """Everything known about a model on one set of crops.

    Attributes:
        metrics: Figures, intervals and notes; strictly valid JSON, a figure that is not defined is None.
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

        Args:
            out: Folder, made if missing.
            images: The crops in the order of ``predictions``, for the contact sheet of errors.
        """
        from supcam.evaluation import figures as pictures

        out.mkdir(parents=True, exist_ok=True)
        _write_text(out / "metrics.json", json.dumps(self.metrics, indent=2, allow_nan=False) + "\n")
        for name, table in {"predictions": self.predictions, **self.tables}.items():
            _write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
        pictures.draw_all(self, out, images)

    def summary(self, title: str = "Test crops") -> Table:
        """A table for the terminal: overall figures and one row per type, with intervals."""
        table = Table(title=f"{title}: {self.metrics['crops']} crops of {told_cases(self.metrics['cases'])}")
        for heading in ("", "crops", "sensitivity", "interval", "specificity", "precision", "AUC"):
            table.add_column(heading, justify="left" if not heading else "right")
        for label, row in self.metrics["per_type"].items():
            interval = _range(row["sensitivity_low"], row["sensitivity_high"])
            shown = [_percent(row[name]) for name in ("specificity", "precision", "auc")]
            table.add_row(label, str(row["count"]), _percent(row["sensitivity"]), interval, *shown)
        table.add_section()
        for name, heading in (("macro_sensitivity", "macro sensitivity"), ("accuracy", "accuracy")):
            interval = _range(self.metrics[f"{name}_low"], self.metrics[f"{name}_high"])
            table.add_row(heading, str(self.metrics["crops"]), _percent(self.metrics[name]), interval)
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
        validation_logits: (M, 4) of the validation part, for the calibration temperature and the validation figures.
        validation_labels: (M,) types of the validation part.

    Raises:
        UsageError: when there is no crop, or the logits do not fit the crops or the four types.
    """
    _check(logits, len(frame))
    labels = np.array([int(ClusterType.parse(name)) for name in frame["type"]], dtype=np.int64)
    probabilities = calibration.probabilities_of(logits)
    predicted = probabilities.argmax(axis=1)
    groups = case_groups(frame)
    metrics: dict[str, Any] = {"crops": len(labels), "cases": known_cases(frame), "confidence": settings.confidence}
    found = figures(labels, probabilities)
    spans, notes = rate_spans(labels, predicted, groups, settings)
    spans |= probability_spans(labels, probabilities[None], groups, settings)
    for name, value in found.values.items():
        metrics[name] = value
        metrics |= _bounds(name, spans)
    exact = wilson(int((labels == predicted).sum()), len(labels), settings.confidence)
    assert exact is not None  # there is at least one crop
    metrics |= {"accuracy_wilson_low": exact.low, "accuracy_wilson_high": exact.high}
    matrix = confusion(labels, predicted)
    metrics |= _calibration(logits, labels, probabilities, settings, validation_logits, validation_labels)
    metrics |= _bounds("calibration_error", spans)
    metrics["per_type"] = _per_type(found.per_type, matrix, settings.confidence)
    metrics |= _subsets(labels, probabilities, frame, settings)
    metrics["notes"] = [*found.notes, *case_notes(frame), *notes, *metrics.pop("calibration_notes")]
    predictions = prediction_table(frame, probabilities)
    return Evaluation(metrics, predictions, matrix, _tables(labels, probabilities, predictions, metrics, settings))


def rate_spans(
    labels: Ints, predicted: Ints, groups: Sequence[str], settings: EvaluateSettings
) -> tuple[dict[str, Interval], list[str]]:
    """Intervals of all rates of predictions (N,), and notes on lost resamples."""
    return bootstrap(
        labels,
        predicted,
        groups,
        repeats=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def probability_spans(
    labels: Ints, probabilities: Floats, groups: Sequence[str], settings: EvaluateSettings
) -> dict[str, Interval]:
    """Intervals of ``macro_auc`` and ``calibration_error`` of one or several trainings' probabilities (S, N, 4)."""
    return probability_bootstrap(
        labels,
        probabilities,
        groups,
        bins=settings.reliability_bins,
        repeats=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def _bounds(name: str, spans: dict[str, Interval]) -> dict[str, float | None]:
    span = spans.get(name)
    return {f"{name}_low": span.low if span else None, f"{name}_high": span.high if span else None}


def case_groups(frame: pd.DataFrame) -> list[str]:
    """What is resampled together: ``source/case_id`` of each row; a crop without a case stands alone, as in a split."""
    pairs = zip(*_cases(frame), strict=True)
    return [f"{source}/{case}" if case else f"crop {row}" for row, (source, case) in enumerate(pairs)]


def known_cases(frame: pd.DataFrame) -> int:
    """Number of cases that are named."""
    return len({pair for pair in zip(*_cases(frame), strict=True) if pair[1]})


def told_cases(count: int) -> str:
    """Number of cases in words; 0 are unknown ones."""
    return f"{count} case{'s' * (count > 1)}" if count else "unknown cases"


def case_notes(frame: pd.DataFrame) -> list[str]:
    """What intervals over cases rest on, where those are few, or crops name none."""
    named, alone = known_cases(frame), sum(not case for case in _cases(frame)[1])
    if not named:
        return ["no crop names its case: intervals resample crops and say nothing about other cases"]
    if named == 1 and not alone:
        return [ONE_CASE]
    notes = [f"intervals rest on {told_cases(named)} only and are likely too narrow"] if named < _FEW_CASES else []
    if alone:
        notes.append(f"{alone} of {len(frame)} crops name no case and are resampled one by one, as if each were a case")
    return notes


def _cases(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    empty = pd.Series("", index=frame.index)
    columns = [frame.get(name, empty).fillna("").astype(str).tolist() for name in ("source", "case_id")]
    return columns[0], columns[1]


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


def _calibration(
    logits: NDArray[Any],
    labels: Ints,
    probabilities: Floats,
    settings: EvaluateSettings,
    validation_logits: NDArray[Any] | None,
    validation_labels: Ints | None,
) -> dict[str, Any]:
    bins = settings.reliability_bins
    error = calibration.calibration_error(calibration.reliability(labels, probabilities, bins))
    found: dict[str, Any] = {
        "calibration_error": error,
        "negative_log_likelihood": calibration.negative_log_likelihood(logits, labels),
        "calibration_temperature": None,
        "calibration_error_calibrated": None,
        "calibration_notes": [],
    }
    if validation_logits is None or validation_labels is None or len(validation_labels) == 0:
        reason = "calibration_temperature is null: no validation crops to fit it on (packaged models are calibrated)"
        return {**found, "calibration_notes": [reason]}
    temperature = calibration.fit_temperature(validation_logits, validation_labels)
    assert temperature is not None  # there are validation crops
    calibrated = calibration.probabilities_of(logits, temperature)
    found["calibration_temperature"] = temperature
    found["calibration_error_calibrated"] = calibration.calibration_error(
        calibration.reliability(labels, calibrated, bins)
    )
    found["validation"] = _subset(validation_labels, calibration.probabilities_of(validation_logits))
    return found


def _per_type(rows: dict[str, dict[str, Any]], matrix: Ints, confidence: float) -> dict[str, dict[str, Any]]:
    for index, row in enumerate(rows.values()):
        span = wilson(int(matrix[index, index]), int(matrix[index].sum()), confidence)
        row["sensitivity_low"] = None if span is None else span.low
        row["sensitivity_high"] = None if span is None else span.high
    return rows


def _subset(labels: Ints, probabilities: Floats) -> dict[str, Any]:
    values = figures(labels, probabilities).values
    return {"crops": len(labels), **{name: values[name] for name in _SUBSET_FIGURES}}


def _subsets(labels: Ints, probabilities: Floats, frame: pd.DataFrame, settings: EvaluateSettings) -> dict[str, Any]:
    """The main figures for certain labels only and for each source, where that differs from all crops."""

    def part(rows: NDArray[np.bool_]) -> dict[str, Any]:
        return _subset_with_spans(labels[rows], probabilities[rows], frame[rows], settings)

    found: dict[str, Any] = {}
    if "label_certain" in frame:
        certain = (
            frame["label_certain"].map(lambda value: str(value).lower() not in ("no", "false", "0")).to_numpy(bool)
        )
        if certain.any() and not certain.all():
            found["certain"] = part(certain)
    sources = np.asarray(_cases(frame)[0])
    if len(np.unique(sources)) > 1:
        found["by_source"] = {str(name): part(sources == name) for name in np.unique(sources)}
    return found


def _subset_with_spans(
    labels: Ints, probabilities: Floats, frame: pd.DataFrame, settings: EvaluateSettings
) -> dict[str, Any]:
    spans, notes = rate_spans(labels, probabilities.argmax(axis=1), case_groups(frame), settings)
    found = {**_subset(labels, probabilities), "cases": known_cases(frame)}
    for name in SUBSET_SPANS:
        found |= _bounds(name, spans)
    return {**found, "notes": [*figures(labels, probabilities).notes, *case_notes(frame), *notes]}


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


def _tables(
    labels: Ints, probabilities: Floats, predictions: pd.DataFrame, metrics: dict[str, Any], settings: EvaluateSettings
) -> dict[str, pd.DataFrame]:
    roc, precision_recall = _curves(labels, probabilities)
    return {
        "confusion": predictions[["type", "predicted"]].rename(columns={"type": "actual"}),
        "per_type": pd.DataFrame([{"type": label, **row} for label, row in metrics["per_type"].items()]),
        "reliability": calibration.reliability(labels, probabilities, settings.reliability_bins),
        "risk_coverage": calibration.risk_coverage(labels, probabilities),
        "roc": roc,
        "pr": precision_recall,
    }


def _curves(labels: Ints, probabilities: Floats) -> tuple[pd.DataFrame, pd.DataFrame]:
    roc = [pd.DataFrame(columns=["type", "fpr", "tpr"])]
    precision_recall = [pd.DataFrame(columns=["type", "recall", "precision"])]
    for index, label in enumerate(TYPE_LABELS):
        actual = labels == index
        if not 0 < actual.sum() < len(labels):
            continue
        fpr, tpr, _ = roc_curve(actual, probabilities[:, index])
        roc.append(pd.DataFrame({"type": label, "fpr": fpr, "tpr": tpr}))
        precision, recall, _ = precision_recall_curve(actual, probabilities[:, index], drop_intermediate=True)
        precision_recall.append(pd.DataFrame({"type": label, "recall": recall, "precision": precision}))
    return tuple(pd.concat(part[1:] or part, ignore_index=True) for part in (roc, precision_recall))  # type: ignore[return-value]


def _write_text(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(text, encoding="utf-8", newline="")
    scratch.replace(path)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{100 * low:.1f} - {100 * high:.1f}"
