"""The table of a comparison: metrics of every row over all folds and seeds, and its difference from the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.evaluation.calibration import calibration_error, probabilities_of, reliability
from supcam.evaluation.cases import actual_types, case_groups, subsets
from supcam.evaluation.intervals import probability_bootstrap
from supcam.evaluation.metrics import classification_metrics
from supcam.evaluation.repeats import compare_repeats, holm, repeated_metrics
from supcam.evaluation.report import prediction_table
from supcam.experiments.jobs import Job, JobContext
from supcam.experiments.recipe import RecipeResult
from supcam.files import write_text
from supcam.settings import EvaluateSettings


@dataclass(frozen=True)
class Answers:
    """What the trainings of one row predicted for every crop that some fold held out.

    Attributes:
        frame: The crops, in the order of the folds.
        logits: (S, N, 4), by seed.
        results: Of the jobs, by seed and fold.
    """

    frame: pd.DataFrame
    logits: NDArray[np.float64]
    results: list[RecipeResult]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Types (S, N)."""
        return np.asarray(self.logits.argmax(axis=2), dtype=np.int64)

    def seconds(self, kind: str = "all") -> float | None:
        """Median time of a job: ``all`` by the clock, ``processor`` of all cores; None where no whole run has it."""
        whole = [result.seconds[kind] for result in self.results if not result.resumed and kind in result.seconds]
        return float(np.median(whole)) if whole else None


def gather(jobs: Sequence[Job], context: JobContext) -> Answers | None:
    """The answers of the jobs of one row, given by seed and fold; None where one of them has not finished."""
    results = [result for job in jobs if (result := context.result(job)) is not None]
    if len(results) < len(jobs):
        return None
    seeds = len({job.seed for job in jobs})
    rows = np.concatenate([job.fold.held_out for job in jobs[: len(jobs) // seeds]])
    logits = np.concatenate([result.logits for result in results]).reshape(seeds, len(rows), -1)
    return Answers(context.crops.frame.iloc[rows].reset_index(drop=True), logits, results)


def subset_metrics(answers: Answers, settings: EvaluateSettings) -> dict[str, dict[str, Any]]:
    """Metrics with intervals of all crops, certain labels, each source, and each source's certain labels."""
    return {
        name: _metrics(replace(answers, frame=answers.frame[rows], logits=answers.logits[:, rows]), settings)
        for name, rows in subsets(answers.frame).items()
    }


def _metrics(answers: Answers, settings: EvaluateSettings) -> dict[str, Any]:
    """Metrics with intervals; those that need probabilities are means over the seeds, None where one is undefined."""
    found = repeated_metrics(answers.frame, answers.predicted, settings)
    labels, groups = actual_types(answers.frame), case_groups(answers.frame)
    probabilities = np.stack([probabilities_of(one) for one in answers.logits])
    aucs = [classification_metrics(labels, one).values["macro_auc"] for one in probabilities]
    errors = [calibration_error(reliability(labels, one, settings.reliability_bins)) for one in probabilities]
    known = [auc for auc in aucs if auc is not None]
    values = {"macro_auc": float(np.mean(known)) if known else None, "calibration_error": float(np.mean(errors))}
    intervals = probability_bootstrap(labels, probabilities, groups, settings)
    bounds = {name: asdict(interval) for name, interval in intervals.items()}
    nothing = {"low": None, "high": None}
    return found | {name: {"value": value, **bounds.get(name, nothing)} for name, value in values.items()}


def comparison_table(
    answers: Mapping[str, Answers], reference: str, settings: EvaluateSettings, metric: str
) -> dict[str, dict[str, Any]]:
    """Every row's metrics and cost; against the reference row also the difference, its interval and p-values."""
    table: dict[str, dict[str, Any]] = {}
    for name, row in answers.items():
        cost = {"seconds_per_cell": row.seconds(), "processor_seconds_per_cell": row.seconds("processor")}
        table[name] = {**_metrics(row, settings), **cost, "device": row.results[0].device, "paired": None}
        if reference in answers and name != reference:
            other = answers[reference].predicted
            table[name]["paired"] = asdict(compare_repeats(row.frame, row.predicted, other, settings, metric))
    # A point of a sweep may be the training of a row, which is one comparison shown twice, or of the reference: none.
    keys = {name: answers[name].logits.tobytes() for name, found in table.items() if found["paired"]}
    tests = {key: table[name]["paired"]["p_value"] for name, key in keys.items()}
    if keys:
        tests.pop(answers[reference].logits.tobytes(), None)
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    for name, key in keys.items():
        table[name]["paired"]["p_value_adjusted"] = adjusted.get(key, 1.0)
    return table


def plain_table(table: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The comparison as a flat table, for CSV and the terminal."""
    return pd.DataFrame([_flat(name, row) for name, row in table.items()])


def _flat(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {"row": name, "crops": row["crops"], "cases": row["cases"], "seeds": row["seeds"]}
    for metric in ("accuracy", "macro_sensitivity", "macro_f1"):
        flat |= {metric: row[metric]["value"]} | {f"{metric}_{bound}": row[metric][bound] for bound in ("low", "high")}
    flat |= {f"sensitivity_{label}": part["value"] for label, part in row["per_type"].items()}
    paired = row["paired"] or {}
    for key in ("difference", "low", "high", "only_model", "only_reference", "p_value", "p_value_adjusted"):
        flat[f"paired_{key}"] = paired.get(key)
    return flat | {key: row[key] for key in ("seconds_per_cell", "processor_seconds_per_cell")}


def write_predictions(answers: Answers, path: Path) -> None:
    """Out-of-fold predictions of one row as CSV, six digits: the mean probabilities of the seeds."""
    mean = np.mean([probabilities_of(logits) for logits in answers.logits], axis=0)
    table = prediction_table(answers.frame, mean)
    write_text(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
