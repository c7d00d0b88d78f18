"""Where a model errs, by kind of crop: python -m benchmarks.errors CROPS METAPHASES NAME=PREDICTIONS.csv ...

``CROPS`` and ``METAPHASES`` are ``mfish-slides`` and the label maps of its slides, which say how many chromosomes
a crop holds and how they meet. Predictions are the ``predictions.csv`` of ``supcam.experiments.folds`` or a file that
``benchmarks.contrast`` leaves; a crop may have several rows, one for each seed. Crops of certain labels only. Prints
one JSON line for each kind and value with the error rate of each file, and draws the crops that more than half of the
predictions type wrongly, with the commonest wrong type and the share that is wrong.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

from supcam.cluster_type import TYPE_LABELS
from supcam.data.mask_clusters import Region, regions_of, shared_regions, whole_chromosomes
from supcam.data.mask_files import read_label_map
from supcam.data.mask_rule import SHARED, Mask, contact_lengths
from supcam.evaluation.figures import draw_errors
from supcam.experiments.shapes import FEATURES, shape_features
from supcam.experiments.single import print_line
from supcam.serving.bodies import dilated
from supcam.serving.images import decode_crop

Image = NDArray[np.uint8]
INSTANCE, TOUCHING, OVERLAPPING, BOTH = TYPE_LABELS


def facts(region: Region, image: Image) -> dict[str, float]:
    """What may make a crop hard: shape, focus, contacts and overlaps.

    Returns:
        ``area`` (pixels); ``solidity`` (area by that of the convex hull); ``focus`` (mean absolute
        Laplacian of the inside by its contrast); ``contact`` (pixels, the shortest there is); ``gap`` (how light the
        grey of contacts is, 0 as the chromosomes, 1 as paper; the lightest); ``overlap`` (pixels, the smallest);
        ``position`` (of an overlap along its chromosomes, 0 at an end, 0.5 in the middle; the least).
    """
    inside = image[image < 250].astype(np.float64)
    dark, light = np.percentile(inside, (5, 95))
    edges = np.abs(ndimage.laplace(image.astype(np.float64)))[image < 250]
    (shape,) = regionprops(region.mask.astype(np.uint8))  # type: ignore[no-untyped-call]
    contacts, overlaps = contact_lengths(region.owners), shared_regions(region.owners)
    return {
        "area": region.area,
        "solidity": float(shape.solidity),
        "focus": float(edges.mean() / max(light - dark, 1.0)),
        "contact": min(contacts.values(), default=np.nan),
        "gap": max((_gap(region, image, pair) for pair in contacts), default=np.nan),
        "overlap": min((overlap.area for overlap in overlaps), default=np.nan),
        "position": _position(region),
    }


def _gap(region: Region, image: Image, pair: tuple[int, int]) -> float:
    """Grey of the seam between two chromosomes, 0 as their own median, 1 as paper."""
    if image.shape != region.mask.shape:  # a crop has a rim around its region
        rim = (np.array(image.shape) - region.mask.shape) // 2
        image = image[rim[0] : rim[0] + region.mask.shape[0], rim[1] : rim[1] + region.mask.shape[1]]
    one, other = (region.owners == number for number in pair)
    seam = (one & dilated(other)) | (other & dilated(one))
    body = float(np.median(image[one | other]))
    return float((image[seam].mean() - body) / max(255.0 - body, 1.0))


def _position(region: Region) -> float:
    shared = region.owners == SHARED
    found = [_along(body, body & shared) for body in whole_chromosomes(region.owners) if (body & shared).any()]
    return min(found, default=np.nan)


def _along(body: Mask, part: Mask) -> float:
    """Place of the middle of ``part`` along the long axis of ``body``: 0 at an end, 0.5 in the middle."""
    points = np.argwhere(body).astype(np.float64)
    centre = points.mean(axis=0)
    axis = np.linalg.svd(points - centre, full_matrices=False)[2][0]
    along = (points - centre) @ axis
    middle = float(((np.argwhere(part) - centre) @ axis).mean())
    share = (middle - along.min()) / max(along.max() - along.min(), 1.0)
    return float(min(share, 1.0 - share))


Rule = Callable[[pd.DataFrame], "pd.Series[Any]"]


def _cut(column: str, edges: list[float], unit: str = "") -> Rule:
    """Ranges between the edges, in rising order."""
    names = [f"below {edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(edges)), f"{edges[-1]:g} or more"]
    labels = [f"{name} {unit}".strip() for name in names]
    return lambda frame: pd.cut(frame[column], [-np.inf, *edges, np.inf], right=False, labels=labels)


def _thirds(column: str) -> Rule:
    def by_third(frame: pd.DataFrame) -> "pd.Series[Any]":
        return _cut(column, [float(f"{edge:.3g}") for edge in frame[column].quantile([1 / 3, 2 / 3])])(frame)

    return by_third


def _types(frame: pd.DataFrame) -> "pd.Series[Any]":
    return frame["type"].astype(pd.CategoricalDtype(list(TYPE_LABELS), ordered=True))


KINDS: dict[str, tuple[tuple[str, ...], Rule]] = {
    "type": (TYPE_LABELS, _types),
    "chromosomes": ((TOUCHING, OVERLAPPING, BOTH), _cut("chromosomes", [3, 4, 5])),
    "solidity of singles": ((INSTANCE,), _cut("solidity", [0.8, 0.9])),
    "ends of the skeleton of singles": ((INSTANCE,), _cut("ends", [3, 4])),
    "area of singles": ((INSTANCE,), _thirds("area")),
    "shortest contact of touching": ((TOUCHING,), _cut("contact", [5, 10, 20], "px")),
    "lightest seam of touching": ((TOUCHING,), _cut("gap", [0.1, 0.2, 0.4])),
    "smallest overlap": ((OVERLAPPING, BOTH), _cut("overlap", [40, 80, 120], "px")),
    "position of the overlap": ((OVERLAPPING, BOTH), _cut("position", [0.1, 0.2, 0.35])),
    "focus": (TYPE_LABELS, _thirds("focus")),
}


def described(crops: Path, metaphases: Path) -> tuple[pd.DataFrame, list[Image]]:
    """Crops of certain labels with their facts, and their pictures."""
    table = pd.read_csv(crops / "labels.csv", dtype=str)
    table = table[table["label_certain"] == "yes"].reset_index(drop=True)
    rows, images = [], []
    regions: dict[str, list[Region]] = {}
    for path, cell in zip(table["path"], table["cell"], strict=True):
        if cell not in regions:
            (file,) = (metaphases / "labels").glob(f"{cell}.*")
            regions[cell] = regions_of(read_label_map(file.read_bytes(), 255).owners)
        region = regions[cell][int(Path(path).stem.rpartition("_")[2]) - 1]
        images.append(decode_crop(crops / path))
        rows.append(facts(region, images[-1]))
    frame = pd.concat([table, pd.DataFrame(rows)], axis=1)
    frame["ends"] = shape_features(images)[:, FEATURES.index("skeleton_ends")]
    # Two homologues of one class have one value in the label map: the table counts them.
    frame["chromosomes"] = table["n_chromosomes"].astype(int)
    return frame.assign(name=[Path(path).stem for path in table["path"]]), images


def predictions_of(file: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a file with the name and type of their crop, and whether they are ``wrong``."""
    found = pd.read_csv(file, dtype=str)
    found["name"] = found["crop_id"].map(lambda crop: Path(crop).stem)
    found["type"] = found["name"].map(frame.set_index("name")["type"])
    return found[found["type"].notna()].assign(wrong=lambda rows: rows["predicted"] != rows["type"])


def error_rates(frame: pd.DataFrame, found: pd.DataFrame) -> NDArray[np.float64]:
    """For each crop (N,) the share of the predictions that are wrong; NaN where there are none."""
    return found.groupby("name")["wrong"].mean().reindex(frame["name"]).to_numpy(dtype=np.float64)


def main() -> None:
    """Print the error rates by kind, and draw what is wrong most often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("crops", type=Path, help="such as ../shared/data/mfish-slides")
    parser.add_argument("metaphases", type=Path, help="such as ../shared/metaphases")
    parser.add_argument("predictions", nargs="+", help="NAME=FILE.csv with the columns crop_id and predicted")
    parser.add_argument("--into", type=Path, default=Path("reports/errors"), help="folder of the pictures")
    options = parser.parse_args()
    frame, images = described(options.crops, options.metaphases)
    files = dict(given.split("=", 1) for given in options.predictions)
    found = {name: predictions_of(file, frame) for name, file in files.items()}
    rates = {name: error_rates(frame, rows) for name, rows in found.items()}
    for kind, (types, rule) in KINDS.items():
        of = frame["type"].isin(types)
        for value, rows in frame[of].groupby(rule(frame[of]), sort=True, observed=True).groups.items():
            shares = {name: round(float(np.nanmean(wrong[rows])), 4) for name, wrong in rates.items()}
            print_line(name="errors", kind=kind, value=value, crops=len(rows), **shares)
    options.into.mkdir(parents=True, exist_ok=True)
    given = pd.concat(found.values())
    errors = given[given["wrong"]].groupby("name")["predicted"].agg(lambda types: types.mode()[0])
    frame["predicted"], frame["confidence"] = frame["name"].map(errors), np.nanmean(list(rates.values()), axis=0)
    wrong = frame[frame["confidence"] > 0.5].sort_values("confidence", ascending=False)
    for label in TYPE_LABELS:
        draw_errors(wrong[wrong["type"] == label], images, options.into / f"{label}.png")


if __name__ == "__main__":
    main()
