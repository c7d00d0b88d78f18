"""The rule of docs/masks.md: how well it gives labels made from the same label maps, and its picture.

``python -m benchmarks.masks METAPHASES LABELS_CSV`` prints one JSON object for each half of the slides; thresholds were
chosen on every other slide. ``python -m benchmarks.masks --figure`` draws ``docs/figures/masks-rule.png``.
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from supcam.data.mask_clusters import (
    Classes,
    Region,
    cluster_of_bodies,
    cluster_of_classes,
    outlined_bodies,
    regions_of,
    width_factor,
)
from supcam.data.mask_files import read_label_map
from supcam.data.mask_rule import SHARED, Cluster, Owners, judge

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "masks-rule.png"
COLOURS = ((255, 255, 255), (86, 140, 196), (226, 148, 64), (112, 176, 120))
Bar = tuple[float, float, float, float]  # middle (x, y), length, angle in degrees; 11 pixels wide
SHOWN: tuple[tuple[Bar, ...], ...] = (
    ((30, 30, 40, 60),),
    ((20, 26, 40, 90), (42, 51, 32, 0)),
    ((20, 28, 40, 90), (42, 32, 32, 0)),
    ((24, 28, 40, 90), (34, 32, 36, 90)),
    ((20, 28, 40, 90), (38, 33, 28, 0)),
    ((20, 28, 40, 90), (34, 33, 28, 0)),
    ((30, 30, 50, 30), (30, 30, 46, 110)),
    ((24, 26, 44, 30), (24, 28, 42, 110), (49, 37, 34, 90)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the agreement, or draw the figure."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--figure"]:
        _figure()
    elif len(given) == 2:
        for row in _agreement(Path(given[0]), Path(given[1])):
            print(json.dumps(row))
    else:
        sys.exit("usage: python -m benchmarks.masks METAPHASES LABELS_CSV | --figure")


def _agreement(metaphases: Path, labels: Path) -> list[dict[str, object]]:
    with labels.open(newline="", encoding="utf-8") as stream:
        expected = {Path(row["path"]).stem: row for row in csv.DictReader(stream)}
    slides = sorted({row["case"] for row in expected.values()})
    chosen = set(slides[::2])
    found = _verdicts(metaphases)
    rows = []
    for name, part in (("slides the thresholds were chosen on", chosen), ("other slides", set(slides) - chosen)):
        judged = [(row, *found[crop]) for crop, row in expected.items() if row["case"] in part]
        certain = [(row["type"], kind) for row, kind, _ in judged if row["label_certain"] == "yes"]
        clusters = [pair for pair in certain if pair[0] != "instance"]
        rows.append({
            "name": name, "slides": len(part), "crops": len(certain), "agreement": _share(certain),
            "clusters": len(clusters), "agreement_clusters": _share(clusters),
            "agreement_with_uncertain": _share([(row["type"], kind) for row, kind, _ in judged]),
            "certain_as_labelled": _share([(row["label_certain"] == "yes", sure) for row, _, sure in judged]),
        })  # fmt: skip
    return rows


def _verdicts(metaphases: Path) -> dict[str, tuple[str, bool]]:
    """Type and certainty by name of a crop, of all regions of all label maps."""
    classes, seen = Classes(), {}
    for path in sorted((metaphases / "labels").iterdir()):
        owners = read_label_map(path.read_bytes(), 255).owners
        seen[path.stem] = regions_of(owners)
        classes.add(path.stem, seen[path.stem], (owners.shape[0], owners.shape[1]))
    usual = classes.usual_areas()
    found = {}
    for cell, regions in seen.items():
        factor = width_factor(regions)
        for region in regions:
            verdict = judge(cluster_of_classes(region, classes.totals[cell], usual[cell]), factor)
            found[f"{cell}_{region.number:03d}"] = (verdict.type.label, verdict.certain)
    return found


def _share(pairs: Sequence[tuple[object, object]]) -> float:
    return round(sum(one == other for one, other in pairs) / len(pairs), 4)


def _figure(scale: int = 3, side: int = 62) -> None:
    wide, high = side * scale, side * scale + 44
    sheet = Image.new("RGB", (4 * wide, 2 * high), "white")
    pen = ImageDraw.Draw(sheet)
    for index, bars in enumerate(SHOWN):
        outlined = outlined_bodies([_bar(bar, side) for bar in bars], (side, side))
        region = Region(1, (slice(0, side), slice(0, side)), outlined.owners)
        cluster = cluster_of_bodies(region, outlined.bodies or ())
        verdict = judge(cluster)
        left, top = index % 4 * wide, index // 4 * high
        sheet.paste(_coloured(outlined.owners).resize((wide, wide), Image.Resampling.NEAREST), (left, top))
        pen.text((left + 8, top + wide), _met(cluster), fill="black", font_size=12)
        doubt = "" if verdict.certain else ", uncertain"
        pen.text((left + 8, top + wide + 18), f"{verdict.type.label}{doubt}", fill="black", font_size=12)
    sheet.save(FIGURE, optimize=True)


def _met(cluster: Cluster) -> str:
    if cluster.overlaps:
        overlap = max(cluster.overlaps, key=lambda overlap: overlap.area)
        return f"overlap {overlap.area}, half {overlap.depth:.1f} thick"
    return f"contact {max(cluster.contacts.values())}" if cluster.contacts else "no contact"


def _bar(bar: Bar, side: int) -> tuple[tuple[slice, slice], np.ndarray]:
    x, y, length, angle = bar
    along = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    across = np.array([-along[1], along[0]])
    corners = [(x, y) + along * a * length / 2 + across * b * 5.5 for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    drawn = Image.new("1", (side, side))
    ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in corners], fill=1)
    mask = np.asarray(drawn)
    return (slice(0, side), slice(0, side)), mask


def _coloured(owners: Owners) -> Image.Image:
    colours = np.array(COLOURS, dtype=np.uint8)[np.maximum(owners, 0)]
    colours[owners == SHARED] = (150, 30, 60)
    return Image.fromarray(colours)


if __name__ == "__main__":
    main()
