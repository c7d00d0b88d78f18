"""Figures of a comparison: rows with their intervals, and a metric along each sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supcam.evaluation.figures import new_figure, save

_SHOWN = ("accuracy", "macro_sensitivity")


def draw_rows(content: Mapping[str, Any], path: Path) -> None:
    """Accuracy and macro sensitivity of every row with their intervals, the reference row marked."""
    rows = content["rows"]
    figure, axes = new_figure(7.6, 1.2 + 0.5 * len(rows))
    for offset, (name, colour) in enumerate(zip(_SHOWN, ("tab:blue", "tab:orange"), strict=True)):
        for at, row in enumerate(rows.values()):
            _mark(axes, row[name], at - 0.12 + 0.24 * offset, colour, name.replace("_", " ") if not at else None)
    labels = [f"{row['told']}{' (reference)' * (name == content['reference'])}" for name, row in rows.items()]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{content['parts']}, {content['seeds']} seed{'s' * (content['seeds'] > 1)}, interval over cases")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left", fontsize="small")
    save(figure, path)


def draw_sweep(setting: str, points: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    """One metric along the values of a setting, in their order."""
    figure, axes = new_figure(4.8, 3.4)
    for at, point in enumerate(points):
        part = point[name]
        axes.errorbar(at, part["value"], yerr=_bounds(part), fmt="o", color="tab:blue", capsize=4)
    axes.plot(range(len(points)), [point[name]["value"] for point in points], color="tab:blue", linewidth=1)
    axes.set_xticks(range(len(points)), [str(point["at"]) for point in points])
    axes.set_xlabel(setting)
    axes.set_ylabel(name.replace("_", " "))
    axes.grid(alpha=0.3)
    save(figure, path)


def _mark(axes: Any, part: Mapping[str, Any], at: float, colour: str, label: str | None) -> None:
    axes.errorbar(part["value"], at, xerr=_bounds(part), fmt="o", color=colour, capsize=3, label=label)


def _bounds(part: Mapping[str, Any]) -> list[list[float]] | None:
    """Distances of the interval's bounds; a percentile interval may leave its value outside."""
    if part["low"] is None:
        return None
    return [[max(0.0, part["value"] - part["low"])], [max(0.0, part["high"] - part["value"])]]
