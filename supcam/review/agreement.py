"""Two readers of the same crops: how far they agree beyond chance, and where they differ."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.errors import UsageError
from supcam.review.sheet import DECISIONS, crop_names, read_sheet

_RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """Crops that both decided, the share decided the same way, Cohen's kappa with its 95 % bootstrap interval (over
    crops), and the rows on which they differ, with the decisions as ``suggestion`` (first) and ``reason`` (second).

    Kappa is NaN where both gave one and the same decision throughout: then chance explains everything.
    """

    both: int
    same: float
    kappa: float
    kappa_low: float
    kappa_high: float
    differing: pd.DataFrame

    def lines(self) -> list[str]:
        """The result as lines for a terminal."""
        interval = f"{self.kappa:.3f} ({self.kappa_low:.3f} - {self.kappa_high:.3f})"
        kappa = "not defined" if np.isnan(self.kappa) else interval
        decided = f"{self.both} crops decided by both: {self.same:.1%} the same way"
        return [f"{decided}, kappa {kappa}; {len(self.differing)} differ"]


def compare_readers(first: Path, second: Path) -> Agreement:
    """Agreement of two filled in sheets (Cohen, Educ. Psychol. Meas. 20, 1960), over the decisions of the page.

    Raises:
        UsageError: for what is not a sheet, or where no crop was decided in both.
    """
    one, other = (_decided(sheet) for sheet in (first, second))
    both = one.join(other[["corrected"]], rsuffix="_other", how="inner")
    if both.empty:
        raise UsageError(f"{first} and {second} have no crop that both decided. Give two sheets of the same crops.")
    codes = {name: code for code, name in enumerate(DECISIONS)}
    columns = [[codes[text] for text in both[name]] for name in ("corrected", "corrected_other")]
    pairs = np.array(columns, dtype=np.int64).T
    draws = np.random.default_rng(0).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    values = [kappa for kappa in (_kappa(pairs[draw]) for draw in draws) if not np.isnan(kappa)]
    low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    differing = both[both["corrected"] != both["corrected_other"]]
    differing = differing.assign(
        suggestion=differing["corrected"], reason=f"{second.stem}: " + differing["corrected_other"], corrected=""
    )
    same = float((pairs[:, 0] == pairs[:, 1]).mean())
    return Agreement(len(both), same, _kappa(pairs), float(low), float(high), differing.reset_index(drop=True))


def _kappa(pairs: NDArray[np.int64]) -> float:
    """Cohen's kappa of decisions (N, 2); NaN where chance explains everything."""
    from sklearn.metrics import cohen_kappa_score

    with np.errstate(invalid="ignore"):
        return float(cohen_kappa_score(pairs[:, 0], pairs[:, 1])) if len(np.unique(pairs)) > 1 else float("nan")


def _decided(sheet: Path) -> pd.DataFrame:
    rows = read_sheet(sheet)
    rows.index = pd.Index(crop_names(rows))
    rows["path"] = [str(sheet.resolve().parent / path) for path in rows["path"]]
    return rows[rows["corrected"] != ""]
