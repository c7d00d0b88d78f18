"""The model card: what a packaged model is, what made it, how good it is, and what it is not for."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from supcam.cluster_type import TYPE_LABELS
from supcam.serving.engine import CARD_FILE, CARD_FORMAT, PREDICTIONS_FILE, REMEDY, PackageError, read_card

INTENDED_USE = (
    "Sorting crops of metaphase chromosomes by cluster type, so that the right segmentation runs on each crop; "
    "doubtful crops go to a person."
)
LIMITS = (
    "Not a medical device and not a diagnosis: it names types of clusters, never abnormalities.",
    "Trained on the stains, microscopes and segmentations of the data named here; measure it on yours before use.",
    "Expects one cluster a crop, on a white or evenly grey background.",
)


class CardSection(BaseModel):
    """A section of the card: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputCard(CardSection):
    """What the graph takes: one square of 8-bit grey on white, (N, 1, size, size) uint8."""

    size: int = Field(ge=8)
    scale: Literal["letterbox", "native"] = "letterbox"


class DataCard(CardSection):
    """Which crops made and judged the model; ``counts`` is crops by part and type.

    ``licences`` holds the beginning of every licence file that came with the crops, by its path below ``data/``;
    ``confirmed`` counts crops by part whose label a person confirmed or corrected in a review.
    """

    manifest_hash: str
    split_hash: str
    composed_hash: str = ""
    sources: list[str] = Field(default_factory=list)
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    licences: dict[str, str] = Field(default_factory=dict)
    confirmed: dict[str, int] = Field(default_factory=dict)


class Metric(CardSection):
    """A metric on the test part with its confidence interval; ``crops`` is what it was measured on."""

    value: float
    low: float | None = None
    high: float | None = None
    crops: int | None = None


class CalibrationCard(CardSection):
    """Temperature fitted on validation (it is inside the graph) and the calibration error on test, 0-1."""

    temperature: float = Field(1.0, gt=0)
    error: float | None = Field(None, ge=0, le=1)


class AchievedRisk(CardSection):
    """Of the test crops of a type: shares ``answered`` without review, and answered so as another type (``risk``)."""

    crops: int
    answered: float | None = None
    risk: float | None = None
    low: float | None = None
    high: float | None = None


class TypeReviewCard(CardSection):
    """Confidence from which crops of the type may be answered, set on ``crops`` validation crops.

    These are of the type, or of all types with too few crops, see ``evaluation/review.py``. The share of such crops
    that is answered as another type without review is ``risk`` at most; None where too few crops set nothing.
    """

    threshold: float = Field(ge=0, le=1)
    crops: int = Field(ge=0)
    risk: float | None = Field(None, ge=0, le=1)
    test: AchievedRisk | None = None


class UnlikeCard(CardSection):
    """Share of crops unlike the training crops that is ``expected``, and what was found on test crops."""

    expected: float = Field(ge=0, le=1)
    share: float | None = Field(None, ge=0, le=1)
    crops: int = Field(0, ge=0)


class ReviewCard(CardSection):
    """What goes to review: crops whose confidence is below ``threshold``, chosen on validation crops.

    ``coverage`` is the share of these that is answered, ``risk`` the share of wrong ones among the answered. Where a
    risk is kept for each type, ``threshold`` is the largest of those in ``by_type``.
    """

    by_type: dict[str, TypeReviewCard] = Field(default_factory=dict)
    unlike: UnlikeCard | None = None
    threshold: float = Field(0.0, ge=0, le=1)
    coverage: float = Field(1.0, ge=0, le=1)
    risk: float | None = Field(None, ge=0, le=1)
    risk_coverage: list[tuple[float, float]] = Field(default_factory=list)


class ParityCard(CardSection):
    """Largest absolute difference of probabilities between the ONNX graph and torch on real crops."""

    difference: float = Field(ge=0)
    crops: int = Field(ge=1)


class ModelCard(CardSection):
    """The whole card; everything in it is determined by code, data and settings, so a rebuild writes the same."""

    format: Literal[2] = CARD_FORMAT
    types: list[str] = Field(default_factory=lambda: list(TYPE_LABELS))
    input: InputCard
    encoder: str
    settings: dict[str, Any]
    data: DataCard
    code_hash: str
    metrics: dict[str, Metric]
    sensitivity: dict[str, Metric]
    validation: dict[str, float] = Field(default_factory=dict)
    calibration: CalibrationCard = CalibrationCard()
    review: ReviewCard = ReviewCard()
    parity: ParityCard | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    licence: str = "Apache-2.0"
    intended_use: str = INTENDED_USE
    limits: list[str] = Field(default_factory=lambda: list(LIMITS))

    @field_validator("types")
    @classmethod
    def _types_in_order(cls, types: list[str]) -> list[str]:
        if types != list(TYPE_LABELS):
            raise ValueError(f"allowed are {', '.join(TYPE_LABELS)}, in this order")
        return types

    def missing(self) -> list[str]:
        """Names of entries that promotion needs and that are empty."""
        needed = {
            "encoder": self.encoder,
            "code_hash": self.code_hash,
            "data.manifest_hash": self.data.manifest_hash,
            "data.split_hash": self.data.split_hash,
            "licence": self.licence,
            "intended_use": self.intended_use,
            "settings": self.settings,
            **{f"metrics.{name}": self.metrics.get(name) for name in ("accuracy", "macro_sensitivity")},
            "limits": self.limits,
            **{f"sensitivity.{label}": self.sensitivity.get(label) for label in self.types},
        }
        measured = {"parity": self.parity, "calibration.error": self.calibration.error, "review.risk": self.review.risk}
        empty = [name for name, value in needed.items() if not value]
        return empty + [name for name, value in measured.items() if value is None]

    def to_json(self) -> str:
        """The card as text, the same bytes for the same card."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def load_card(folder: Path) -> ModelCard:
    """The card of a package; PackageError when it is missing, not JSON, of another format, or lacks an entry."""
    try:
        return ModelCard.model_validate(read_card(folder))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise PackageError(f"{folder / CARD_FILE} is not a card of format {CARD_FORMAT}: {wrong}. {REMEDY}") from None


def content_hash_of_earlier_versions(card: ModelCard, files: dict[str, str], shipped: str = "") -> str:
    """The hash with which versions were registered that left the card and the stored answers out of it.

    ``files`` holds the SHA-256 of every file of the package by name; ``shipped`` that of the code that ships with the
    model, "" for the earliest.
    """
    parts: dict[str, Any] = {
        "files": {name: digest for name, digest in files.items() if name not in (CARD_FILE, PREDICTIONS_FILE)},
        "data": [card.data.manifest_hash, card.data.split_hash],
        "input": card.input.model_dump(),
        "review": card.review.threshold,
    }
    if card.review.by_type:
        parts["review_by_type"] = {label: row.threshold for label, row in card.review.by_type.items()}
    if shipped:
        parts["shipped"] = shipped
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
