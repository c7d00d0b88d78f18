"""The report of an evaluation as one HTML page that needs no other file, and everything it shows as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam import pages
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation.cases import count_of_cases
from supcam.evaluation.repeats import METRICS, compare_repeats
from supcam.evaluation.report import Evaluation, evaluate
from supcam.evaluation.review import achieved_risk
from supcam.evaluation.unlike import UnlikeShare
from supcam.files import write_text
from supcam.serving.gate import WITHOUT_TYPE
from supcam.settings import EvaluateSettings

_ERRORS_SHOWN = 48
_TILE = 240  # pixels; shown smaller until it is clicked
_PLOTS = {
    "confusion.png": "Confusion matrix",
    "sensitivity.png": "Sensitivity of each type",
    "reliability.png": "Reliability: accuracy against confidence",
    "risk_coverage.png": "Errors left when the least confident crops go to review",
}
_OVERALL = (
    *((name.replace("_", " ").replace("f1", "F1"), name) for name in METRICS),
    ("AUC, one against the rest", "macro_auc"),
    ("kappa", "kappa"),
    ("calibration error", "calibration_error"),
)
_COMPARED = ("accuracy", "macro_sensitivity")
_LEAST_LOG = -80.0  # stands for the logarithm of a probability of 0, which is not finite


@dataclass(frozen=True)
class Judged:
    """Answers of one model to the crops of a report.

    Attributes:
        name: The name of the model on the page.
        probabilities: (N, 4), each row sums to 1.
        reasons: Of N crops, why each would go to review, or "".
        seen: Crops that trained or tuned the model.
    """

    name: str
    probabilities: NDArray[np.floating[Any]]
    reasons: Sequence[str] = ()
    seen: int = 0


def write_report(
    judged: Sequence[Judged],
    crops: CropSet,
    settings: EvaluateSettings,
    into: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    unlike: float | None = None,
) -> Evaluation:
    """Evaluate the first model, compare it with a second one, and write ``report.html``, JSON, tables and figures.

    What shows no crop has no type: such pictures count for no metric and are listed in ``no_crops.csv``. ``notes`` on
    how the crops were read come first among those of the report, ``title`` says where they come from, and ``unlike`` is
    the share (0-1) of crops unlike the training crops that the first model expects; None where it does not know it.
    Returns the evaluation of the first model, the comparison in its ``metrics``.

    Raises:
        UsageError: when there is no crop, answers do not fit the crops or the four types, or ``into`` is a file.
    """
    if into.exists() and not into.is_dir():
        raise UsageError(f"{into} is a file; name a folder for the report.")
    given = len(crops)
    no_crops, judged, crops = _without_no_crops(judged, crops)
    evaluations = [_evaluated(one, crops, settings) for one in judged]
    first = evaluations[0]
    seen = [f"{one.seen} of {given} crops trained or tuned {one.name}" for one in judged if one.seen]
    first.metrics["model"] = judged[0].name
    if len(no_crops):
        held = Counter(no_crops["reason"])
        first.metrics["no_crops"] = dict(held)
        first.tables["no_crops"] = no_crops
        listed = ", ".join(f"{reason} {count}" for reason, count in held.most_common())
        notes = [*notes, f"{len(no_crops)} of {given} pictures show no crop and were not judged: {listed}"]
    first.metrics["notes"] = [*notes, *first.metrics["notes"], *(f"{text}: its metrics are too good" for text in seen)]
    if judged[0].reasons:
        _add_review(first, judged[0].reasons, crops, settings, unlike)
    if len(judged) > 1:
        first.metrics["comparison"] = _comparison(judged, evaluations, crops, settings)
    first.write(into, crops.images)
    write_text(into / "report.html", pages.render("evaluation.html", _shown(first, judged, crops, into, title)))
    return first


def _without_no_crops(judged: Sequence[Judged], crops: CropSet) -> tuple[pd.DataFrame, Sequence[Judged], CropSet]:
    """Rows of the pictures that the first model's gate calls no crop, and everything without them."""
    reasons = list(judged[0].reasons) or [""] * len(crops)
    typed = np.array([not WITHOUT_TYPE.intersection(text.split("; ")) for text in reasons], dtype=bool)
    names = [name for name in ("crop_id", "type", "case_id", "source") if name in crops.frame]
    rows = crops.frame.loc[~typed, names].assign(reason=list(compress(reasons, ~typed)))
    if typed.all():
        return rows, judged, crops
    if not typed.any():
        raise UsageError(f"none of the {len(crops)} pictures is a crop: {rows['reason'].iloc[0]}. Give labelled crops.")
    kept = [
        replace(one, probabilities=one.probabilities[typed], reasons=list(compress(one.reasons, typed)))
        for one in judged
    ]
    return rows, kept, crops.subset(typed)


def _add_review(
    evaluation: Evaluation, reasons: Sequence[str], crops: CropSet, settings: EvaluateSettings, unlike: float | None
) -> None:
    """Add what would go to review, what is answered wrongly without it, and how many crops are unlike those trained."""
    metrics, predictions = evaluation.metrics, evaluation.predictions
    predictions["reason"] = list(reasons)
    answered = np.array([not text for text in reasons], dtype=bool)
    held = Counter(reason for text in reasons if text for reason in text.split("; "))
    listed = ", ".join(f"{reason} {count}" for reason, count in held.most_common())
    if held:
        metrics["notes"] += [f"{int((~answered).sum())} of {len(crops)} crops would go to review: {listed}"]
    metrics["reasons"] = dict(held)
    right = (predictions["type"] == predictions["predicted"]).to_numpy()
    metrics["answered"] = {
        "crops": int(answered.sum()),
        "accuracy": float(right[answered].mean()) if answered.any() else None,
    }
    predicted = np.array([TYPE_LABELS.index(label) for label in predictions["predicted"]], dtype=np.int64)
    metrics["review"] = achieved_risk(crops.labels, predicted, answered, settings.confidence)
    share = UnlikeShare.of(reasons, unlike)
    if share is not None:
        metrics["unlike_training"] = share.as_dict()
        metrics["notes"] += [share.sentence]


def _evaluated(judged: Judged, crops: CropSet, settings: EvaluateSettings) -> Evaluation:
    """One model's evaluation; refuses answers that are not probabilities."""
    given = np.asarray(judged.probabilities, dtype=np.float64)
    if len(crops) and given.shape == (len(crops), len(TYPE_LABELS)):
        off = np.abs(given.sum(axis=1) - 1).max()
        if not (np.isfinite(given).all() and given.min() >= 0 and off < 1e-3):
            raise UsageError(f"{judged.name}: its answers are not probabilities: finite, 0 or more, each row's sum 1.")
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(given), _LEAST_LOG)
    return evaluate(logits, crops.frame, settings)


def _comparison(
    judged: Sequence[Judged], evaluations: Sequence[Evaluation], crops: CropSet, settings: EvaluateSettings
) -> dict[str, Any]:
    """Both models on the same crops: metrics, difference with its interval over cases, McNemar."""
    first, second = (np.asarray(one.probabilities).argmax(axis=1)[None] for one in judged[:2])
    found: dict[str, Any] = {"model": judged[0].name, "other": judged[1].name}
    for metric in _COMPARED:
        paired = asdict(compare_repeats(crops.frame, first, second, settings, metric))
        values = {"value": evaluations[0].metrics[metric], "other_value": evaluations[1].metrics[metric]}
        found[metric] = values | {name: paired[name] for name in ("difference", "low", "high")}
        found["mcnemar"] = {name: paired[name] for name in ("only_model", "only_reference", "p_value")}
    return found


def _shown(evaluation: Evaluation, judged: Sequence[Judged], crops: CropSet, into: Path, title: str) -> dict[str, Any]:
    """What the template of the page shows; the plots are read from ``into``."""
    metrics = evaluation.metrics
    certain = {"label_certain not no": metrics["certain"]} if "certain" in metrics else {}
    errors = evaluation.errors()
    shown = errors.head(_ERRORS_SHOWN)
    pictures = [pages.thumbnail(crops.images[int(str(row))], _TILE) for row in shown.index]
    return {
        "metrics": metrics,
        "title": title,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "models": [(one.name, one.seen) for one in judged],
        "cases": count_of_cases(metrics["cases"]),
        "overall": _OVERALL,
        "subsets": {**metrics.get("by_source", {}), **certain},
        "compared": _COMPARED,
        "plots": [(caption, pages.data_uri((into / name).read_bytes())) for name, caption in _PLOTS.items()],
        "errors": shown.assign(picture=pictures).to_dict("records"),
        "error_count": len(errors),
    }
