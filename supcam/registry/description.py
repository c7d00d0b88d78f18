"""What MLflow shows of a registered version: its card in Markdown with the confusion matrix, and its metrics."""

from pathlib import Path

import pandas as pd

from supcam.cluster_type import TYPE_LABELS
from supcam.pages import render
from supcam.registry.card import Metric, ModelCard
from supcam.registry.evidence import stored_answers
from supcam.serving.engine import PROBABILITY_COLUMNS

_LONGEST = 5000  # characters that a database keeps of a description


def describe(package: Path, card: ModelCard, *, commit: str = "", trained_by: str = "") -> str:
    """The card of a package in Markdown.

    Args:
        package: Its answers to the test crops make the confusion matrix.
        card: Its card.
        commit: Of the code, "" where it is unknown.
        trained_by: Address of the page of the run that trained the model, "" where it is unknown.
    """
    text = render(
        "card.md",
        {
            "card": card,
            "metrics": {name.replace("_", " "): metric for name, metric in _metrics(card).items()},
            "matrix": confusion_matrix(package),
            "commit": commit,
            "trained_by": trained_by,
        },
    )
    return text[:_LONGEST]


def metric_values(card: ModelCard) -> dict[str, float]:
    """Metrics of the model by name, as MLflow compares them: on the test crops, and ``validation_*``."""
    found = {name: metric.value for name, metric in _metrics(card).items()}
    if card.calibration.error is not None:
        found["calibration_error"] = card.calibration.error
    return found | {f"validation_{name}": value for name, value in card.validation.items() if name != "crops"}


def confusion_matrix(package: Path) -> pd.DataFrame:
    """Counts of the test crops, (4, 4): rows are actual types, columns predicted ones.

    Raises:
        PackageError: when the package holds no such answers.
    """
    from supcam.evaluation.metrics import confusion

    answers = stored_answers(package)
    most_likely = answers[list(PROBABILITY_COLUMNS)].to_numpy().argmax(axis=1)
    counts = confusion(answers["type"].map(TYPE_LABELS.index).to_numpy(), most_likely)
    return pd.DataFrame(counts, index=list(TYPE_LABELS), columns=list(TYPE_LABELS))


def _metrics(card: ModelCard) -> dict[str, Metric]:
    """Those of the card, and the sensitivity of each type that has test crops."""
    sensitivity = {f"sensitivity_{label}": metric for label, metric in card.sensitivity.items() if metric.crops != 0}
    return card.metrics | sensitivity
