"""The report of an evaluation as one HTML page that needs no other file, and everything it shows as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supcam import pages
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation.cases import count_of_cases
from supcam.evaluation.repeats import METRICS, compare_repeats
from supcam.evaluation.report import Evaluation, evaluate
from supcam.files import write_text
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
) -> Evaluation:
    """Evaluate the first model, compare it with a second one, and write ``report.html``, JSON, tables and figures.

    ``notes`` on how the crops were read come first among those of the report, and ``title`` says where they come from.
    Returns the evaluation of the first model, the comparison in its ``metrics``.

    Raises:
        UsageError: when there is no crop, answers do not fit the crops or the four types, or ``into`` is a file.
    """
    if into.exists() and not into.is_dir():
        raise UsageError(f"{into} is a file; name a folder for the report.")
    evaluations = [_evaluated(one, crops, settings) for one in judged]
    first = evaluations[0]
    seen = [f"{one.seen} of {len(crops)} crops trained or tuned {one.name}" for one in judged if one.seen]
    first.metrics["model"] = judged[0].name
    first.metrics["notes"] = [*notes, *first.metrics["notes"], *(f"{text}: its metrics are too good" for text in seen)]
    if judged[0].reasons:
        first.predictions["reason"] = list(judged[0].reasons)
        held = Counter(reason for text in judged[0].reasons if text for reason in text.split("; "))
        listed = ", ".join(f"{reason} {count}" for reason, count in held.most_common())
        flagged = sum(map(bool, judged[0].reasons))
        first.metrics["notes"] += [f"{flagged} of {len(crops)} crops would go to review: {listed}"] if flagged else []
        first.metrics["reasons"] = dict(held)
    if len(judged) > 1:
        first.metrics["comparison"] = _comparison(judged, evaluations, crops, settings)
    first.write(into, crops.images)
    write_text(into / "report.html", pages.render("evaluation.html", _shown(first, judged, crops, into, title)))
    return first


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
