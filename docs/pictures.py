"""Draws the pictures of the README and of docs/drawn.md from drawn crops; `make pictures`, after `dvc repro`.

``types.png`` shows the four types, ``composite.png`` how a composite is made, ``drawn.png`` looks of profile sample,
``result.png`` answers to test crops.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.composition.composer import Composer, Composite
from supcam.data.crops import CropSet
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.serving.engine import PREDICTIONS_FILE, PROBABILITY_COLUMNS
from supcam.settings import ComposeSettings, load_settings
from supcam.synthetic.sample import synthesize
from supcam.synthetic.singles import draw_singles

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
_EXAMPLES = 5
_LOOKS, _SINGLES, _CLUSTERS = 16, 8, 4  # rows of drawn.png, and what a row shows
_CELL = 68  # pixels


def main() -> None:
    """Draw all of them."""
    with TemporaryDirectory() as scratch:
        drawn, data = Path(scratch) / "drawn", Path(scratch) / "data"
        synthesize(drawn, cases=8, crops=160, seed=4)
        import_sources([drawn], data)
        crops = CropSet.load(read_manifest(data / "manifest.csv"), data)
    draw_types(crops, FIGURES / "types.png")
    draw_composites(crops, FIGURES / "composite.png")
    draw_looks(load_settings(ROOT / "params.yaml").compose, FIGURES / "drawn.png")
    answers = pd.read_csv(ROOT / "outputs" / "evaluate" / "package" / PREDICTIONS_FILE)
    draw_answers(answers, read_manifest(ROOT / "data" / "manifest.csv"), FIGURES / "result.png")


def draw_types(crops: CropSet, path: Path) -> None:
    """A row of examples for each type."""
    figure, grid = _grid(4, _EXAMPLES, 1.6, 1.3)
    for row, label in enumerate(TYPE_LABELS):
        found = np.flatnonzero(crops.frame["type"] == label)
        for column, at in enumerate(found[:: max(1, len(found) // _EXAMPLES)][:_EXAMPLES]):
            _show(grid[row][column], crops.images[at])
        grid[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11, labelpad=12)
    _save(figure, path)


def draw_composites(crops: CropSet, path: Path) -> None:
    """Two sources and what became of them, a row for each kind of result."""
    composer = Composer(crops, ComposeSettings(), keep_masks=True)
    wanted, made = dict.fromkeys(TYPE_LABELS[1:]), 0
    while not all(wanted.values()):
        composite = composer.compose(3, made)
        made += 1
        if isinstance(composite, Composite) and len(composite.parents) == 2:
            wanted[composite.type.label] = wanted[composite.type.label] or composite
    figure, grid = _grid(3, 4, 2.1, 1.9)
    for row, composite in enumerate(wanted.values()):
        assert composite is not None
        for column, placed in enumerate(composite.placed):
            _show(grid[row][column], crops.images[placed.row])
            grid[row][column].set_title(str(crops.frame["type"].iloc[placed.row]), fontsize=9)
        _show(grid[row][2], composite.image)
        grid[row][2].set_title("where each source lies", fontsize=9)
        assert composite.masks is not None
        for mask, colour in zip(composite.masks, ("tab:blue", "tab:orange", "red"), strict=True):
            if mask.any():
                grid[row][2].contour(mask, levels=[0.5], colors=colour, linewidths=1.2)
        _show(grid[row][3], composite.image)
        grid[row][3].set_title(composite.type.label, fontsize=9, fontweight="bold")
    _save(figure, path)


def draw_looks(settings: ComposeSettings, path: Path) -> None:
    """Singles of a look and clusters composed of them, a row for each look, large ones shrunk to fit."""
    drawn = settings.drawn.model_copy(update={"looks": _LOOKS, "singles": _SINGLES, "share": 0.0})
    singles = draw_singles(drawn)
    rows = [singles.images[look * _SINGLES :][:_SINGLES] for look in range(_LOOKS)]
    composer = Composer(singles, settings)
    for index in range(100 * _LOOKS):
        made = composer.compose(1, index)
        if isinstance(made, Composite) and len(row := rows[int(made.group[-4:])]) < _SINGLES + _CLUSTERS:
            row.append(made.image)
        if all(len(row) == _SINGLES + _CLUSTERS for row in rows):
            break
    sheet = Image.new("L", (_CELL * (_SINGLES + _CLUSTERS), _CELL * _LOOKS), 255)
    for at, row in enumerate(rows):
        for column, crop in enumerate(row):
            image = Image.fromarray(crop)
            image.thumbnail((_CELL - 4, _CELL - 4), Image.Resampling.BOX)
            left, top = column * _CELL + (_CELL - image.width) // 2, at * _CELL + (_CELL - image.height) // 2
            sheet.paste(image, (left, top))
    sheet.quantize(32).save(path, optimize=True)
    print(path)


def draw_answers(answers: pd.DataFrame, manifest: pd.DataFrame, path: Path) -> None:
    """Test crops of each type with the answer of the packaged model, wrong ones in red, the least confident last."""
    figure, grid = _grid(4, _EXAMPLES, 1.7, 1.75)
    probabilities = answers[list(PROBABILITY_COLUMNS)].to_numpy()
    answers = answers.assign(answer=probabilities.argmax(axis=1), confidence=probabilities.max(axis=1))
    for row, label in enumerate(TYPE_LABELS):
        found = answers[answers["type"] == label].sort_values("confidence", ascending=False)
        chosen = found.iloc[np.linspace(0, len(found) - 1, _EXAMPLES).astype(int)]
        crops = CropSet.load(manifest[manifest["sha256"].isin(chosen["sha256"])], ROOT / "data")
        images = dict(zip(crops.frame["sha256"], crops.images, strict=True))
        for axes, (_, answer) in zip(grid[row], chosen.iterrows(), strict=True):
            _show(axes, images[answer["sha256"]])
            named = TYPE_LABELS[answer["answer"]]
            colour = "black" if named == label else "crimson"
            axes.set_title(f"{named}\n{100 * answer['confidence']:.0f} %", fontsize=8, color=colour)
        grid[row][0].set_ylabel(f"{label}\n(true type)", rotation=0, ha="right", va="center", fontsize=9, labelpad=12)
    _save(figure, path)


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * columns, height * rows), dpi=110, layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axes: Any, image: Any) -> None:
    """A crop in the middle of a square, at the same scale as the others of its picture where it fits."""
    height, width = image.shape
    side = max(height, width, 90)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xlim(width / 2 - side / 2, width / 2 + side / 2)
    axes.set_ylim(height / 2 + side / 2, height / 2 - side / 2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
