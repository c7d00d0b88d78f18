"""Reading: how crops saved again in other ways are read, what it costs, and the pictures of ``docs/reading.md``.

``python -m benchmarks.reading [FOLDER] [--quick]`` prints one JSON object a line, for drawn crops or those of a folder
with ``labels.csv`` (each third case). ``python -m benchmarks.reading --figures`` draws ``docs/figures/reading-*.png``.
"""

import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from supcam.evaluation.novelty import MAX_BANK, fit_novelty
from supcam.resaving import KINDS, encoded, padded
from supcam.serving import surroundings
from supcam.serving.decoding import decode_plane
from supcam.serving.gate import judged
from supcam.serving.images import ImageError, letterbox, read_crop
from supcam.serving.novelty import statistics_of
from supcam.serving.paper import on_white
from supcam.serving.reading import bodies_alone, read_grey
from supcam.synthetic.sample import synthesize

Grey = NDArray[np.uint8]
SIDE, DARK = 64, 230
AGREES = 0.95
FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
_SHOWN = (
    "u16_white20000", "inverted", "dapi_blue", "frame1_black", "pad8_grey", "masked_black", "bg120", "shading30",
    "noise3_pad30", "scalebar", "text_label", "dust_large", "sliver_flat", "cut_out_bilinear",
    "frame_double",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and the costs, or draw the figures."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--figures" in given:
        _figures(_drawn(8))
        return
    folders = [argument for argument in given if not argument.startswith("--")]
    crops = _of_folder(Path(folders[0])) if folders else _drawn(8 if "--quick" in given else 40)
    for name in KINDS:
        print(json.dumps(_row(name, crops)), flush=True)
    print(json.dumps(_costs(crops)))


def _drawn(count: int) -> list[Grey]:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "sample"
        table = synthesize(root, cases=1, counts=[count // 4] * 4, seed=3)
        return [np.asarray(Image.open(root / path).convert("L")) for path in table["path"]]


def _of_folder(root: Path, per_type: int = 25) -> list[Grey]:
    """Up to 25 crops of each type, evenly spread over each third case."""
    with (root / "labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    cases = sorted({row["case"] for row in rows})[::3]
    crops = []
    for kind in sorted({row["type"] for row in rows}):
        paths = [row["path"] for row in rows if row["type"] == kind and row["case"] in cases]
        chosen = np.linspace(0, len(paths) - 1, min(per_type, len(paths))).astype(int)
        crops += [np.asarray(Image.open(root / paths[index]).convert("L")) for index in chosen]
    return crops


def _row(name: str, crops: list[Grey]) -> dict[str, object]:
    """Shares of crops that are read as before (dark masks agree to 95 %), flagged, or neither."""
    random = np.random.default_rng(0)
    agreements, differences, flagged = [], [], []
    for crop in crops:
        try:
            reading = read_crop(KINDS[name].save(crop, random))
        except ImageError:
            agreements.append(0.0)
            flagged.append(True)
            continue
        after, before = letterbox(reading.image, SIDE).astype(int), letterbox(crop, SIDE).astype(int)
        both, either = (after < DARK) & (before < DARK), (after < DARK) | (before < DARK)
        agreements.append(both.sum() / max(1, either.sum()))
        differences.append(float(np.abs(after - before).mean()))
        flagged.append(bool(judged(reading.measurements)))
    agrees = np.array(agreements) >= AGREES
    return {
        "kind": name,
        "expected": KINDS[name].expected,
        "crops": len(crops),
        "agrees": round(float(agrees.mean()), 3),
        "median_agreement": round(float(np.median(agreements)), 3),
        "grey_difference": round(float(np.median(differences)), 2),
        "flagged": round(float(np.mean(flagged)), 3),
        "neither": round(float((~agrees & ~np.array(flagged)).mean()), 3),
    }


def _costs(crops: list[Grey], repeats: int = 20) -> dict[str, object]:
    """Milliseconds a crop of processor time: decoding alone, reading, and the gate with the score for unlike crops."""
    costs: dict[str, object] = {}
    # As many training crops as a package holds at most, and one crop at a time, which costs most.
    novelty = fit_novelty([crops[index % len(crops)] for index in range(MAX_BANK)], crops, 0.01)
    assert novelty is not None
    for name in ("clean", "noise3_pad30", "shading15", "masked_black"):
        random = np.random.default_rng(0)
        files = [encoded(crop) if name == "clean" else KINDS[name].save(crop, random) for crop in crops]
        marks = [time.process_time()]
        planes = [decode_plane(content) for _ in range(repeats) for content in files]
        marks.append(time.process_time())
        readings = [read_grey(plane.values, lossy=plane.lossy) for plane in planes]
        marks.append(time.process_time())
        for reading in readings:
            unlike = novelty.unlike(statistics_of(reading.image)[np.newaxis])
            judged(reading.measurements, unlike_training=bool(unlike[0]))
        marks.append(time.process_time())
        for step, seconds in zip(("decoding", "reading", "gate"), np.diff(marks), strict=True):
            costs[f"{name}_{step}_ms"] = round(float(seconds) / len(planes) * 1000, 3)
    costs["median_pixels"] = int(np.median([crop.size for crop in crops]))
    return costs


def _figures(crops: list[Grey]) -> None:
    """Pairs of what was saved and what is read, and pictures that are no crop with their reasons."""
    from tests.support.more_kinds import MORE_KINDS

    FIGURES.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    pairs = []
    for index, name in enumerate(_SHOWN):
        content = (KINDS | MORE_KINDS)[name].save(crops[index % len(crops)], random)
        plane = decode_plane(content)
        pairs.append((name, np.nan_to_num(plane.values), read_grey(plane.values, lossy=plane.lossy).image))
    _sheet(pairs, FIGURES / "reading-kinds.png")
    _sheet(_steps(crops[2]), FIGURES / "reading-steps.png", columns=2)
    two = np.concatenate([np.pad(crop, ((0, 200 - len(crop)), (20, 20)), constant_values=255) for crop in crops[:2]], 1)
    many = [np.pad(crop, ((0, 200 - len(crop)), (15, 15)), constant_values=255) for crop in crops]
    wrong = {
        "blank": np.full((60, 60), 240, np.uint8),
        "noise": random.integers(0, 256, (60, 60), dtype=np.uint8),
        "two bodies": two,
        "metaphase": np.concatenate(many, axis=1),
        "cut": crops[0][: len(crops[0]) // 2],
        "silhouette": np.where(crops[4] < 245, 80, 255).astype(np.uint8),
    }
    rows = []
    for name, picture in wrong.items():
        reading = read_grey(picture)
        rows.append((f"{name}: {'; '.join(judged(reading.measurements))}", picture, reading.image))
    _sheet(rows, FIGURES / "reading-reasons.png", columns=2)


def _steps(crop: Grey) -> list[tuple[str, NDArray[np.float32], Grey]]:
    """One crop, spoilt in every way at once, before and after each step of the reading."""
    around = padded(crop, 24)
    image = Image.fromarray(around)
    ImageDraw.Draw(image).text((2, 1), "13q", fill=20)
    lit = np.asarray(image) * np.linspace(0.95, 0.75, around.shape[1])
    noisy = 255 - np.clip(lit + np.random.default_rng(2).normal(0, 2, lit.shape), 0, 255)
    stored = np.pad(noisy, 2, constant_values=255).astype(np.float32)
    notes: list[str] = []
    top, bottom, left, right = surroundings.frame_sides(stored)
    inner = stored[top : stored.shape[0] - bottom, left : stored.shape[1] - right]
    upright, hidden = surroundings.upright(inner, np.zeros(inner.shape, dtype=bool), notes)
    paper = on_white(upright, hidden, False, notes)
    mask = np.where(paper.foreground, 0, 255).astype(np.uint8)
    shown = bodies_alone(paper, notes)[0]
    pictures = [np.clip(np.rint(picture), 0, 255).astype(np.uint8) for picture in (inner, upright, paper.grey)]
    return [
        ("1 frame", stored, pictures[0]),
        ("2 polarity", inner, pictures[1]),
        ("3 paper", upright, pictures[2]),
        ("4 foreground, 5 bodies", mask.astype(np.float32), shown),
    ]


def _sheet(
    rows: Sequence[tuple[str, NDArray[np.generic], Grey]], path: Path, columns: int = 4, side: int = 110
) -> None:
    """A grid of named pairs: as stored, as read."""
    lines = -(-len(rows) // columns)
    wide = 2 * side + 24
    sheet = Image.new("RGB", (columns * wide, lines * (side + 24)), (235, 238, 242))
    pen = ImageDraw.Draw(sheet)
    for index, (name, before, after) in enumerate(rows):
        x, y = index % columns * wide + 6, index // columns * (side + 24) + 4
        pen.text((x, y), name, fill=(20, 20, 20))
        for shift, picture in ((0, before), (side + 6, after)):
            image = Image.fromarray(np.asarray(np.rint(picture.astype(np.float32)), dtype=np.uint8))
            scale = side / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            sheet.paste(image.resize(size, Image.Resampling.NEAREST), (x + shift, y + 14))
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
