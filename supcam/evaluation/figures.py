"""Figures of an evaluation as PNG files, the same bytes for the same evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from supcam.cluster_type import TYPE_LABELS
from supcam.files import replaced_file

_TILE = 128  # pixels
_COLUMNS = 8
_MAX_ERRORS = 64


def draw_confusion(matrix: NDArray[np.int64], metrics: Mapping[str, Any], path: Path) -> None:
    """Confusion matrix (4, 4): counts, coloured by their share of the actual type."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with new_figure(path, 5.6, 4.8) as axes:
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*matrix.shape):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(TYPE_LABELS)), TYPE_LABELS, rotation=20, ha="right")
        axes.set_yticks(range(len(TYPE_LABELS)), TYPE_LABELS)
        axes.set(xlabel="predicted", ylabel="actual")
        axes.set_title(f"accuracy {100 * metrics['accuracy']:.1f} %, {metrics['crops']} crops")


def draw_sensitivity(metrics: Mapping[str, Any], path: Path) -> None:
    """Sensitivity of each type with its interval; a type without crops has no mark."""
    with new_figure(path, 5.6, 3.2) as axes:
        for at, (label, row) in enumerate(metrics["per_type"].items()):
            if row["count"] == 0:
                axes.text(0.5, at, f"no crop of type {label}", va="center", ha="center", color="grey")
                continue
            error = distances(row["sensitivity"], row["sensitivity_low"], row["sensitivity_high"])
            axes.errorbar(row["sensitivity"], at, xerr=error, fmt="o", color="tab:blue", capsize=4)
        counts = [f"{label} ({row['count']})" for label, row in metrics["per_type"].items()]
        axes.set_yticks(range(len(counts)), counts)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(counts) - 0.5, -0.5))
        axes.set_xlabel(f"sensitivity, {100 * metrics['confidence']:.0f} % interval (Wilson)")
        axes.grid(axis="x", alpha=0.3)


def draw_reliability(table: pd.DataFrame, metrics: Mapping[str, Any], path: Path) -> None:
    """Accuracy against confidence, of the calibrated model where there is one; dot size by the number of crops."""
    calibrated = metrics["calibration_error_calibrated"]
    error = metrics["calibration_error"] if calibrated is None else calibrated
    filled = table[table["count"] > 0]
    with new_figure(path, 4.4, 4.2) as axes:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        axes.plot(filled["confidence"], filled["accuracy"], color="tab:blue", linewidth=1)
        axes.scatter(filled["confidence"], filled["accuracy"], s=10 + 200 * filled["count"] / filled["count"].sum())
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_title(f"calibration error {100 * error:.1f} %" + ("" if calibrated is None else ", calibrated"))


def draw_risk_coverage(table: pd.DataFrame, path: Path) -> None:
    """Share of errors among the crops kept, when the least confident ones go to review."""
    with new_figure(path, 4.8, 3.4) as axes:
        axes.plot(table["coverage"], table["risk"], color="tab:blue")
        axes.set(xlabel="share of crops kept, most confident first", ylabel="share of errors")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)


def draw_errors(wrong: pd.DataFrame, images: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Contact sheet of wrongly typed crops in their order, each with actual and predicted type.

    The index of ``wrong``, their predictions, is the number of the crop among all ``images``.
    """
    shown, font = wrong.head(_MAX_ERRORS), ImageFont.load_default(12)
    rows, step = max(1, -(-len(shown) // _COLUMNS)), _TILE + 46
    sheet = Image.new("L", (_COLUMNS * (_TILE + 12) + 8, rows * step + 26), 255)
    draw = ImageDraw.Draw(sheet)
    head = f"{len(wrong)} of {len(images)} crops are typed wrongly; {len(shown)} shown, most confident first"
    draw.text((8, 4), head, fill=0, font=font)
    for at, (index, row) in enumerate(shown.iterrows()):
        left, top = at % _COLUMNS * (_TILE + 12) + 8, at // _COLUMNS * step + 26
        tile = Image.fromarray(images[int(str(index))])
        tile.thumbnail((_TILE, _TILE), Image.Resampling.BOX)
        sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
        draw.rectangle((left - 1, top - 1, left + _TILE, top + _TILE), outline=205)
        actual, predicted = (
            row[name].replace("touching-overlapping", "touch-overlap") for name in ("type", "predicted")
        )
        draw.text((left, top + _TILE + 2), f"is {actual}", fill=0, font=font)
        draw.text((left, top + _TILE + 16), f"{predicted} {100 * row['confidence']:.0f} %", fill=0, font=font)
    with replaced_file(path) as fresh:
        sheet.save(fresh)


@contextmanager
def new_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes of a figure in inches, without the global state of pyplot, written whole when the block ends well."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    yield figure.subplots()
    with replaced_file(path) as fresh:
        # Without the version of matplotlib in it, so that equal figures are equal files.
        figure.savefig(fresh, metadata={"Software": None})


def distances(value: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """Distances of an interval's bounds from its value, for error bars; a percentile interval may leave it outside."""
    return None if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
