"""Two models on the same crops, before anyone promotes: how often their answers differ, and on which crops."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.intervals import Interval, wilson
from supcam.review.production import copied_crops, write_answers
from supcam.review.sheet import PAGE

NO_TYPE = "no type"


@dataclass(frozen=True)
class Shadow:
    """Answers of two models compared.

    ``table`` counts crops by the type that the present model (rows) and the new one (columns) gave. ``differing`` has
    the rows whose types differ: ``path``, ``type`` of the present model, ``suggestion``, ``confidence`` and ``reason``
    of the new one. ``share`` is the 95 % Wilson interval of their share; ``review`` counts the crops that need review
    by each model.
    """

    table: pd.DataFrame
    differing: pd.DataFrame
    crops: int
    share: Interval | None
    review: tuple[int, int]

    def lines(self) -> list[str]:
        """The result as lines for a terminal; the table is printed by itself."""
        interval = f" ({self.share.low:.1%} - {self.share.high:.1%})" if self.share else ""
        share = f"{len(self.differing) / max(self.crops, 1):.1%}{interval}"
        return [
            f"{len(self.differing)} of {self.crops} answers differ: {share}",
            f"{self.review[0]} crops need review now, {self.review[1]} with the new model",
        ]


def compare_answers(present: pd.DataFrame, new: pd.DataFrame) -> Shadow:
    """Compare two tables of ``supcam predict`` of the same crops, in the same order; unreadable crops are left out.

    Raises:
        UsageError: when the tables are not about the same crops.
    """
    if list(present["path"]) != list(new["path"]):
        raise UsageError("the two tables are not about the same crops. Let both models answer the same paths.")
    read = (present["error"] == "") & (new["error"] == "")
    present, new = present[read], new[read]
    before, after = (table["type"].replace("", NO_TYPE) for table in (present, new))
    kinds = [*TYPE_LABELS, NO_TYPE]
    table = pd.crosstab(before, after).reindex(index=kinds, columns=kinds, fill_value=0)
    changed = before != after
    differing = new[changed].assign(type=before[changed], suggestion=after[changed])
    share = wilson(len(differing), len(new))
    review = (int(present["needs_review"].sum()), int(new["needs_review"].sum()))
    return Shadow(table, differing.reset_index(drop=True), len(new), share, review)


def write_differences(found: Shadow, into: Path) -> Path:
    """Copy the crops whose types differ into ``into/crops`` and write their review sheet; returns its page.

    Raises:
        UsageError: when ``into`` exists and is not an empty folder.
    """
    with copied_crops(found.differing, into) as (rows, folder):
        write_answers(rows, folder, "Crops whose type the new model changes", found.lines())
    return into / PAGE
