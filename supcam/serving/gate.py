"""The gate before every answer: why a picture has no type, or has one that a person must look at."""

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


# What a crop may be. Lengths count in widths of the body itself, so resolution does not matter.
MIN_PAPER, MIN_BORDER_PAPER = 0.1, 0.4  # shares of the picture, and of its outermost lines, that are paper
MIN_CONTRAST = 8.0  # paper minus median of the body, grey levels
MIN_CONTRAST_TO_NOISE = 5.0  # the same in standard deviations of the paper's noise
MAX_BODIES = 5  # of chromosome size; more are a metaphase or karyogram, not a cluster that fell apart
MAX_AREA, MAX_EXTENT = 90.0, 30.0  # of the bodies in squared widths, and of the box around them in widths
MAX_CROWDING = 7600.0  # dark parts times squared part widths; real clusters reach 5,600, metaphases begin at 10,400
MAX_CUT = 0.75  # stretch of an edge that runs through the inside of a body, in widths


def judged(
    measurements: Measurements | None, *, unlike_training: bool = False, low_confidence: bool = False
) -> tuple[str, ...]:
    """Why a person must look at a crop, in the order of :data:`REASONS`: by its measurements and what the model says.

    Args:
        measurements: Of the read picture; None when it could not be read.
        unlike_training: Whether the score for unlike crops is above its threshold.
        low_confidence: Whether the confidence is below the threshold.

    A picture that is not a crop is not judged by the model's words as well: these mean nothing then.
    """
    found = set(picture_reasons(measurements))
    if not WITHOUT_TYPE & found:
        found |= {UNLIKE_TRAINING} if unlike_training else set()
        found |= {LOW_CONFIDENCE} if low_confidence else set()
    return tuple(reason for reason in REASONS if reason in found)


def picture_reasons(measurements: Measurements | None) -> list[str]:
    """Reasons that lie in the picture alone, in the order of :data:`REASONS`."""
    if measurements is None:
        return [UNREADABLE]
    measured = measurements
    if not measured.bodies:
        even = measured.noise <= MIN_CONTRAST
        return [BLANK if even else NO_CLEAR_BACKGROUND]
    width = max(measured.width, 1.0)
    hidden_in_noise = measured.contrast < MIN_CONTRAST_TO_NOISE * measured.noise
    checks = {
        BLANK: measured.contrast < MIN_CONTRAST,
        NO_CLEAR_BACKGROUND: measured.paper < MIN_PAPER or measured.border_paper < MIN_BORDER_PAPER or hidden_in_noise,
        LARGER_THAN_A_CLUSTER: measured.bodies > MAX_BODIES
        or measured.area > MAX_AREA * width**2
        or measured.extent > MAX_EXTENT * width
        or measured.crowding > MAX_CROWDING,
        SEVERAL_BODIES: measured.bodies > 1,
        CUT_OFF: measured.cut > MAX_CUT * width,
        NO_GREY_VALUES: measured.flat,
        BLURRED_OUTLINE: measured.blurred_outline,
    }
    return [reason for reason, holds in checks.items() if holds]


def sure_enough(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Whether the confidence of probabilities (N, 4) reaches a threshold (0-1); none reaches 1, and NaN is not sure."""
    return np.asarray((probabilities.max(axis=1) >= threshold) & (threshold < 1))
