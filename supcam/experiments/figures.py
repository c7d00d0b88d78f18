"""Figures of a comparison: rows with their intervals, and a metric along each sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supcam.evaluation.figures import distances, new_figure

_SHOWN = {"accuracy": "tab:blue", "macro_sensitivity": "tab:orange"}


def draw_rows(content: Mapping[str, Any], path: Path) -> None:
    """Accuracy and macro sensitivity of every row with their intervals, the reference row marked."""
    rows, seeds = content["rows"], content["seeds"]
    with new_figure(path, 7.6, 1.2 + 0.5 * len(rows)) as axes:
        for (name, colour), offset in zip(_SHOWN.items(), (-0.12, 0.12), strict=True):
            for at, row in enumerate(rows.values()):
                label = None if at else name.replace("_", " ")
                value, error = row[name]["value"], _error(row[name])
                axes.errorbar(value, at + offset, xerr=error, fmt="o", color=colour, capsize=3, label=label)
        labels = [
            f"{row['description']}{' (reference)' * (name == content['reference'])}" for name, row in rows.items()
        ]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"{content['parts']}, {seeds} seed{'s' * (seeds > 1)}, interval over cases")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="lower left", fontsize="small")


def draw_sweep(setting: str, points: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    """One metric along the values of a setting, in their order."""
    with new_figure(path, 4.8, 3.4) as axes:
        for at, point in enumerate(points):
            axes.errorbar(at, point[name]["value"], yerr=_error(point[name]), fmt="o", color="tab:blue", capsize=4)
        axes.plot(range(len(points)), [point[name]["value"] for point in points], color="tab:blue", linewidth=1)
        axes.set_xticks(range(len(points)), [str(point["at"]) for point in points])
        axes.set(xlabel=setting, ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)


def _error(metric: Mapping[str, Any]) -> list[list[float]] | None:
    return distances(metric["value"], metric["low"], metric["high"])
