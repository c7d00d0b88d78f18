"""Outputs of a rebuilt stage against those its run kept."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from supcam.tracking.runs import flat


@dataclass(frozen=True)
class Difference:
    """One output file of the rebuilt stage against the run's artifact.

    Attributes:
        name: Path below the outputs of the stage.
        equal: Whether the bytes are the same.
        detail: The largest difference of a number, where the file holds numbers, or what is missing.
    """

    name: str
    equal: bool
    detail: str


def compare_folders(recorded: Path, rebuilt: Path) -> list[Difference]:
    """Every file below ``recorded`` against the one of the same name below ``rebuilt``."""
    names = sorted(path.relative_to(recorded) for path in recorded.rglob("*") if path.is_file())
    return [_compare(str(name), recorded / name, rebuilt / name) for name in names]


def _compare(name: str, recorded: Path, rebuilt: Path) -> Difference:
    if not rebuilt.is_file():
        return Difference(name, False, "was not rebuilt")
    if recorded.read_bytes() == rebuilt.read_bytes():
        return Difference(name, True, "the same bytes")
    if recorded.suffix not in (".json", ".csv"):
        return Difference(name, False, "other bytes")
    first, second = _numbers(recorded), _numbers(rebuilt)
    # By name: numbers that only one of the files has do not count, nor those that are missing (NaN).
    gaps = {key: abs(first[key] - second[key]) for key in first if key in second}
    gaps = {key: gap for key, gap in gaps.items() if gap > 0}
    if not gaps:
        return Difference(name, False, "numbers equal, other bytes")
    worst = max(gaps, key=lambda key: gaps[key])
    return Difference(name, False, f"{worst} differs most: {first[worst]:.6g}, rebuilt {second[worst]:.6g}")


def _numbers(path: Path) -> dict[str, float]:
    """The numbers of a JSON object by dotted name, of a table by ``column[row]``."""
    if path.suffix == ".csv":
        table = pd.read_csv(path).select_dtypes("number")
        return {f"{column}[{row}]": float(value) for column in table for row, value in enumerate(table[column])}
    content = json.loads(path.read_text(encoding="utf-8"))
    leaves = flat(content) if isinstance(content, dict) else {}
    return {name: float(value) for name, value in leaves.items() if isinstance(value, int | float)}
