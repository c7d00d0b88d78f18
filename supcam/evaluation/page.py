"""The report of an evaluation as one HTML page that needs no other file, and everything it shows as JSON."""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation import report as reports
from supcam.evaluation.repeats import compare_repeats
from supcam.evaluation.report import Evaluation
from supcam.files import write_text
from supcam.settings import EvaluateSettings

_WORST = 48
_TILE = 120
_FIGURES = {
    "confusion.png": "Confusion matrix",
    "sensitivity.png": "Sensitivity of each type",
    "reliability.png": "Reliability: accuracy against confidence",
    "risk_coverage.png": "Errors left when the least confident crops go to review",
}
_OVERALL = ("accuracy", "macro_sensitivity", "macro_specificity", "micro_specificity", "macro_precision", "macro_f1")
_COMPARED = ("accuracy", "macro_sensitivity")
_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;"
    "text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}"
    "figure{margin:0}figcaption{font-size:13px;overflow-wrap:anywhere}img{max-width:100%}"
    ".figures,.crops{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr))}"
    ".crops{grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr))}.crops img{border:1px solid #ddd}"
    ".note{background:#fff6e0;padding:.4rem .8rem;margin:.3rem 0}"
)


@dataclass(frozen=True)
class Judged:
    """Answers of one model to the crops of a report.

    Attributes:
        name: What the page calls the model.
        probabilities: (N, 4), each row sums to 1.
        seen: Crops that trained or tuned the model.
    """

    name: str
    probabilities: NDArray[np.floating[Any]]
    seen: int = 0


def report(
    judged: Sequence[Judged],
    crops: CropSet,
    settings: EvaluateSettings,
    into: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Evaluate the first model, compare it with a second one, and write ``report.html``, JSON, tables and figures.

    ``notes`` on how the crops were read come first among those of the report.

    Returns:
        The evaluation of the first model; ``metrics`` holds the comparison where there is a second.

    Raises:
        UsageError: when there is no crop, answers do not fit the crops or the four types, or ``into`` is a file.
    """
    if into.exists() and not into.is_dir():
        raise UsageError(f"{into} is a file; name a folder for the report.")
    evaluations = [evaluated(one, crops, settings) for one in judged]
    first = evaluations[0]
    first.metrics["model"] = judged[0].name
    first.metrics["notes"] = [*notes, *first.metrics["notes"]]
    for one in judged:
        if one.seen:
            note = f"{one.seen} of {len(crops)} crops trained or tuned {one.name}: its figures are too good"
            first.metrics["notes"].append(note)
    if len(judged) > 1:
        first.metrics["comparison"] = _comparison(judged, evaluations, crops, settings)
    first.write(into, crops.images)
    write_text(into / "report.html", _page(first, crops, into, title))
    return first


def evaluated(judged: Judged, crops: CropSet, settings: EvaluateSettings) -> Evaluation:
    """One model's evaluation.

    Raises:
        UsageError: for answers that are no probabilities of the four types for these crops.
    """
    given = np.asarray(judged.probabilities, dtype=np.float64)
    if len(crops) and given.shape == (len(crops), len(TYPE_LABELS)):
        off = np.abs(given.sum(axis=1) - 1).max()
        if not (np.isfinite(given).all() and given.min() >= 0 and off < 1e-3):
            raise UsageError(f"{judged.name}: its answers are no probabilities: finite, 0 or more, each row's sum 1.")
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(given), -80.0)
    return reports.evaluate(logits, crops.frame, settings)


def _comparison(
    judged: Sequence[Judged], evaluations: Sequence[Evaluation], crops: CropSet, settings: EvaluateSettings
) -> dict[str, Any]:
    """Both models on the same crops: figures, difference with its interval over cases, McNemar."""
    first, second = (np.asarray(one.probabilities).argmax(axis=1)[None] for one in judged[:2])
    found: dict[str, Any] = {"model": judged[0].name, "other": judged[1].name}
    for figure in _COMPARED:
        paired = asdict(compare_repeats(crops.frame, first, second, settings, figure))
        values = {"value": evaluations[0].metrics[figure], "other_value": evaluations[1].metrics[figure]}
        found[figure] = values | {name: paired[name] for name in ("difference", "low", "high")}
        found["mcnemar"] = {name: paired[name] for name in ("only_model", "only_reference", "p_value")}
    return found


def _page(evaluation: Evaluation, crops: CropSet, into: Path, title: str) -> str:
    metrics = evaluation.metrics
    parts = [
        f"<h1>{_text(metrics['model'])}</h1>",
        f"<p>{metrics['crops']} crops of {reports.told_cases(metrics['cases'])} from {_text(title)}; intervals "
        f"{100 * metrics['confidence']:.0f} %, overall ones by resampling {'cases' if metrics['cases'] else 'crops'}, "
        "per type by Wilson.</p>",
        *(f"<p class=note>{_text(note)}</p>" for note in metrics["notes"]),
        "<h2>Figures</h2>",
        _overall(metrics),
        _per_type(metrics),
        _subset_table(metrics),
        _comparison_table(metrics),
        "<h2>Plots</h2><div class=figures>",
        *(_figure(into / name, caption) for name, caption in _FIGURES.items()),
        "</div>",
        _worst(evaluation, crops),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation of {_text(metrics['model'])}</title>"
        f"<style>{_STYLE}</style>{''.join(parts)}"
        f"<script type='application/json' id=metrics>{json.dumps(metrics).replace('<', chr(92) + 'u003c')}</script>"
        "</html>\n"
    )


def _overall(metrics: dict[str, Any]) -> str:
    rows = [(name.replace("_", " "), _number(metrics[name]), _span(metrics, name)) for name in _OVERALL]
    plain = {"AUC, one against the rest": "macro_auc", "kappa": "kappa", "calibration error": "calibration_error"}
    rows += [(name, _number(metrics[key]), _span(metrics, key)) for name, key in plain.items()]
    return _table(["figure", "value", "interval"], rows)


def _per_type(metrics: dict[str, Any]) -> str:
    rows = [
        (
            label,
            str(row["count"]),
            _number(row["sensitivity"]),
            _span(row, "sensitivity"),
            *(_number(row[name]) for name in ("specificity", "precision", "auc")),
        )
        for label, row in metrics["per_type"].items()
    ]
    return _table(["type", "crops", "sensitivity", "interval", "specificity", "precision", "AUC"], rows)


def _subset_table(metrics: dict[str, Any]) -> str:
    found = dict(metrics.get("by_source", {}))
    if "certain" in metrics:
        found["label_certain not no"] = metrics["certain"]
    if not found:
        return ""
    rows = []
    for name, row in found.items():
        spanned = [text for key in reports.SUBSET_SPANS for text in (_number(row[key]), _span(row, key))]
        rows.append((name, str(row["crops"]), str(row["cases"] or "unknown"), *spanned, _number(row["macro_f1"])))
    headings = ["crops of", "crops", "cases", "accuracy", "interval", "macro sensitivity", "interval", "macro F1"]
    notes = "".join(
        f"<p class=note>{_text(name)}: {_text(note)}</p>" for name, row in found.items() for note in row["notes"]
    )
    return f"<h2>Parts</h2>{_table(headings, rows)}{notes}"


def _comparison_table(metrics: dict[str, Any]) -> str:
    found = metrics.get("comparison")
    if found is None:
        return ""
    rows = [
        (
            figure.replace("_", " "),
            _number(found[figure]["value"]),
            _number(found[figure]["other_value"]),
            f"{found[figure]['difference']:+.4f}",
            "" if found[figure]["low"] is None else f"{found[figure]['low']:+.4f} to {found[figure]['high']:+.4f}",
        )
        for figure in _COMPARED
    ]
    test = found["mcnemar"]
    return (
        f"<h2>Against {_text(found['other'])}</h2>"
        + _table(["figure", found["model"], found["other"], "difference", "interval, paired, cases resampled"], rows)
        + f"<p>{test['only_model']:.0f} crops only the first has right, {test['only_reference']:.0f} only the second: "
        f"McNemar p = {test['p_value']:.3g} (crops taken as independent of each other).</p>"
    )


def _worst(evaluation: Evaluation, crops: CropSet) -> str:
    """Pictures of wrongly typed crops, most confident first."""
    table = evaluation.predictions.reset_index(drop=True)
    wrong = table[table["type"] != table["predicted"]]
    wrong = wrong.sort_values(["confidence", "crop_id"], ascending=[False, True], kind="stable")
    if wrong.empty:
        return "<h2>Errors</h2><p>None.</p>"
    shown = wrong.head(_WORST)
    pictures = "".join(
        f"<figure>{_image(_png(crops.images[int(str(row))]), crop['crop_id'])}<figcaption>{_text(crop['crop_id'])}<br>"
        f"is {crop['type']}<br>said {crop['predicted']}, {100 * crop['confidence']:.0f} %</figcaption></figure>"
        for row, crop in shown.iterrows()
    )
    told = f"{len(wrong)} of {len(table)} crops are typed wrongly, most confident first"
    told += f"; the first {len(shown)} are shown" if len(shown) < len(wrong) else ""
    return f"<h2>Errors</h2><p>{told}:</p><div class=crops>{pictures}</div>"


def _png(image: NDArray[np.uint8]) -> bytes:
    tile = Image.fromarray(image)
    tile.thumbnail((_TILE, _TILE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    tile.save(buffer, "PNG")
    return buffer.getvalue()


def _figure(path: Path, caption: str) -> str:
    return f"<figure>{_image(path.read_bytes(), caption)}<figcaption>{caption}</figcaption></figure>"


def _image(content: bytes, told: str) -> str:
    return f"<img alt='{_text(told)}' src='data:image/png;base64,{base64.b64encode(content).decode()}'>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(name)}" for name in headings)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _span(values: dict[str, Any], name: str) -> str:
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.4f} - {high:.4f}"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _text(value: object) -> str:
    return html.escape(str(value))
