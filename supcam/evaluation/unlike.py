"""Whether a whole folder of crops is unlike the training crops."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from supcam.serving.gate import UNLIKE_TRAINING, WITHOUT_TYPE

# Crops of one slide resemble each other, so that in good folders up to some times the expected share is unlike.
_TOLERATED, _SIGNIFICANCE = 5, 0.01


@dataclass(frozen=True)
class UnlikeShare:
    """How many of a folder's crops are unlike the training crops, against what is expected.

    Attributes:
        crops: those that have a type.
        unlike: of these, those unlike the training crops.
        expected: share (0-1) that is expected of crops like those of training.
    """

    crops: int
    unlike: int
    expected: float

    @classmethod
    def of(cls, reasons: Iterable[str], expected: float | None) -> "UnlikeShare | None":
        """Counted in the column ``reason``; None without crops, or where a model has no reference."""
        listed = [set(text.split("; ")) for text in reasons]
        typed = [found for found in listed if not found & WITHOUT_TYPE]
        if expected is None or not typed:
            return None
        return cls(len(typed), sum(UNLIKE_TRAINING in found for found in typed), expected)

    @property
    def p_value(self) -> float:
        """Of the binomial test that the share is at most five times the expected one."""
        if not self.unlike:
            return 1.0
        from scipy.special import bdtrc  # a third of the time that scipy.stats takes, where any crop is unlike

        return float(bdtrc(self.unlike - 1, self.crops, min(_TOLERATED * self.expected, 1.0)))

    @property
    def reliable(self) -> bool:
        """Whether the answers to these crops may be relied on, as far as this test can say."""
        return self.p_value >= _SIGNIFICANCE

    @property
    def sentence(self) -> str:
        """For a person."""
        found = f"{100 * self.unlike / self.crops:.0f} % of {self.crops} crops are {UNLIKE_TRAINING}"
        remedy = "" if self.reliable else ": answers are not to be relied on"
        return f"{found}, {100 * self.expected:g} % expected{remedy}"

    def as_dict(self) -> dict[str, Any]:
        """For a script, as JSON."""
        share = {"share": self.unlike / self.crops, "expected": self.expected}
        return {"crops": self.crops, "unlike": self.unlike, **share, "p_value": self.p_value, "reliable": self.reliable}
