"""The gate before every answer: why a picture has no type, or has one that a person must look at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .reading import Measurements

UNREADABLE = "unreadable"
BLANK = "blank"
NO_CLEAR_BACKGROUND = "no clear background"
LARGER_THAN_A_CLUSTER = "larger than a cluster"
SEVERAL_BODIES = "several bodies"
CUT_OFF = "cut off at the edge"
NO_GREY_VALUES = "no grey values"
BLURRED_OUTLINE = "outline blurred by compression"
UNLIKE_TRAINING = "unlike the training crops"
LOW_CONFIDENCE = "low confidence"

# In this order the reasons of a crop are listed: what the picture is, what is in it, what the model says.
REASONS: dict[str, str] = {
    UNREADABLE: "the file is damaged or not an image; the error says more",
    BLANK: "nothing stands out from the paper",
    NO_CLEAR_BACKGROUND: "no even paper around a body: noise, a filled picture, or a body hardly above the noise",
    LARGER_THAN_A_CLUSTER: "a whole metaphase, a karyogram, or a body too large for a cluster",
    SEVERAL_BODIES: "two or more separate bodies of chromosome size",
    CUT_OFF: "the body goes on beyond an edge of the picture",
    NO_GREY_VALUES: "a drawing or a silhouette: the body has one grey value",
    BLURRED_OUTLINE: "a frame or cut-out in a JPEG or lossy WebP, or resampled: it reaches into the body",
    UNLIKE_TRAINING: "its greys, texture or size are further from the training crops than those of 99 in 100 crops",
    LOW_CONFIDENCE: "the model is not sure enough of the type",
}
# Pictures with one of these are not crops and get no type; all others keep theirs and go to review.
WITHOUT_TYPE = frozenset({UNREADABLE, BLANK, NO_CLEAR_BACKGROUND, LARGER_THAN_A_CLUSTER})


@dataclass(frozen=True)
class Limits:
    """What a crop may be. Lengths count in widths of the body itself, so resolution does not matter.

    Attributes:
        min_paper: share of the picture that is paper.
        min_border_paper: share of the outermost lines that is paper.
        min_contrast: paper minus median of the body, grey levels.
        min_contrast_to_noise: the same in standard deviations of the paper's noise.
        max_bodies: bodies of chromosome size; more are a metaphase or karyogram, not a cluster that fell apart.
        max_area: pixels of the bodies, in squared widths.
        max_extent: longer side of the box around the bodies, in widths.
        max_crowding: dark parts times squared part widths; real clusters reach 5,600, metaphases begin at 10,400.
        max_cut: stretch of an edge that runs through the inside of a body, in widths.
    """

    min_paper: float = 0.1
    min_border_paper: float = 0.4
    min_contrast: float = 8.0
    min_contrast_to_noise: float = 5.0
    max_bodies: int = 5
    max_area: float = 90.0
    max_extent: float = 30.0
    max_crowding: float = 7600.0
    max_cut: float = 0.75


@dataclass(frozen=True)
class Verdict:
    """The reasons of a crop in the order of :data:`REASONS`, and what follows from them."""

    reasons: tuple[str, ...] = ()

    @property
    def has_type(self) -> bool:
        """Whether the answer may name a type at all."""
        return not WITHOUT_TYPE.intersection(self.reasons)

    @property
    def needs_review(self) -> bool:
        """Whether a person must look at the crop."""
        return bool(self.reasons)

    @property
    def text(self) -> str:
        """Content of the column ``reason``: empty, or the reasons joined by ``; ``."""
        return "; ".join(self.reasons)


DEFAULT_LIMITS = Limits()


def judged(
    measurements: Measurements | None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    unlike_training: bool = False,
    low_confidence: bool = False,
) -> Verdict:
    """Judge one crop by what was measured on it and what the model says of it.

    Args:
        measurements: Of the read picture; None when it could not be read.
        limits: What a crop may be.
        unlike_training: Whether the score for unlike crops is above its threshold.
        low_confidence: Whether the confidence is below the threshold.

    A picture that is not a crop is not judged by the model's words as well: these mean nothing then.
    """
    found = set(picture_reasons(measurements, limits))
    if not WITHOUT_TYPE & found:
        found |= {UNLIKE_TRAINING} if unlike_training else set()
        found |= {LOW_CONFIDENCE} if low_confidence else set()
    return Verdict(tuple(reason for reason in REASONS if reason in found))


def picture_reasons(measurements: Measurements | None, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """Reasons that lie in the picture alone, in the order of :data:`REASONS`."""
    if measurements is None:
        return [UNREADABLE]
    measured = measurements
    if not measured.bodies:
        even = measured.noise <= limits.min_contrast
        return [BLANK if even else NO_CLEAR_BACKGROUND]
    width = max(measured.width, 1.0)
    hidden_in_noise = measured.contrast < limits.min_contrast_to_noise * measured.noise
    checks = {
        BLANK: measured.contrast < limits.min_contrast,
        NO_CLEAR_BACKGROUND: measured.paper < limits.min_paper
        or measured.border_paper < limits.min_border_paper
        or hidden_in_noise,
        LARGER_THAN_A_CLUSTER: measured.bodies > limits.max_bodies
        or measured.area > limits.max_area * width**2
        or measured.extent > limits.max_extent * width
        or measured.crowding > limits.max_crowding,
        SEVERAL_BODIES: measured.bodies > 1,
        CUT_OFF: measured.cut > limits.max_cut * width,
        NO_GREY_VALUES: measured.flat,
        BLURRED_OUTLINE: measured.blurred_outline,
    }
    return [reason for reason, holds in checks.items() if holds]


def sure_enough(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Whether the confidence of probabilities (N, 4) reaches a threshold (0-1); none reaches 1, and NaN is not sure."""
    return np.asarray((probabilities.max(axis=1) >= threshold) & (threshold < 1))
