"""Segment chromosome crops by type with the production model: the light client and scikit-image, no training stack.

    python segment.py CROPS --into RESULT [--model models:/supcam@production] [--overlap mymodule:function]

A single chromosome is kept whole, touching ones are split by a watershed, overlapping ones go to your own function,
and what the model doubts is left to a person.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import label2rgb
from skimage.feature import peak_local_max
from skimage.measure import label
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

import supcam
from supcam.errors import SupcamError, UsageError
from supcam.registry.client import predict_files
from supcam.serving.images import decode_crop

Grey = NDArray[np.uint8]
Labels = NDArray[np.int32]
SplitOverlap = Callable[[Grey], Labels]

HALO_LEVEL = 250
CORE_LEVEL = 240
MIN_PIXELS = 40


def keep_whole(crop: Grey) -> Labels:
    """One object: everything darker than the background, (H, W) with labels from 1."""
    return remove_small_objects(crop < HALO_LEVEL, max_size=MIN_PIXELS - 1).astype(np.int32)


def split_touching(crop: Grey) -> Labels:
    """Watershed of the distance from the background, one basin for each dark body, (H, W) with labels from 1."""
    body = remove_small_objects(ndimage.binary_fill_holes(crop < CORE_LEVEL), max_size=MIN_PIXELS - 1)
    distance = ndimage.distance_transform_edt(body)
    # Half a chromosome's width is the scale of everything: bands and bends below it are no contacts.
    width = distance.max()
    distance = ndimage.gaussian_filter(distance, 0.3 * width)
    apart = max(2, int(1.5 * width))
    peaks = peak_local_max(distance, min_distance=apart, labels=label(body), exclude_border=False)
    markers = np.zeros(crop.shape, dtype=np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    pieces = _merge_pieces_of_one(watershed(-distance, markers, mask=crop < HALO_LEVEL), distance)
    return pieces if pieces.any() else keep_whole(crop)


def _merge_pieces_of_one(pieces: Labels, distance: NDArray[np.float64], neck: float = 0.65) -> Labels:
    """Join basins whose border is nearly as wide as they are: a bend of one chromosome, not a contact of two."""
    widest = ndimage.maximum(distance, pieces, np.arange(pieces.max() + 1))
    for axis in (0, 1):
        first, second = (np.moveaxis(pieces, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        depth = np.moveaxis(distance, axis, 0)[:-1]
        for one, other in {tuple(sorted(pair)) for pair in zip(first.flat, second.flat, strict=True)}:
            border = (np.minimum(first, second) == one) & (np.maximum(first, second) == other)
            if 0 < one < other and depth[border].max() > neck * min(widest[one], widest[other]):
                pieces = np.where(pieces == other, one, pieces)
                return _merge_pieces_of_one(_renumbered(pieces), distance, neck)
    return pieces


def _renumbered(pieces: Labels) -> Labels:
    return np.unique(pieces, return_inverse=True)[1].reshape(pieces.shape).astype(np.int32)


def segment(folder: Path, into: Path, model: str, split_overlapping: SplitOverlap) -> pd.DataFrame:
    """Segment every crop below ``folder``: label images, drawings, and a table of what was done.

    Returns:
        One row a crop: path, type, confidence, treatment, objects, error.
    """
    treatments = {
        "instance": ("kept whole", keep_whole),
        "touching": ("watershed", split_touching),
        "overlapping": ("own function", split_overlapping),
        "touching-overlapping": ("own function", split_overlapping),
    }
    answers = predict_files(supcam.load_production(model), [folder]).frame
    (into / "labels").mkdir(parents=True, exist_ok=True)
    (into / "drawn").mkdir(exist_ok=True)
    rows = []
    for number, answer in enumerate(answers.to_dict("records")):
        row = {name: answer[name] for name in ("path", "type", "confidence", "error")} | {"objects": 0}
        if answer["needs_review"]:
            rows.append(row | {"treatment": "left to a person"})
            continue
        name, cut = treatments[answer["type"]]
        crop = decode_crop(answer["path"])
        pieces = cut(crop)
        stem = f"{number:05d} {Path(answer['path']).stem}"
        Image.fromarray(pieces.astype(np.uint16)).save(into / "labels" / f"{stem}.png")
        drawn = label2rgb(pieces, crop, alpha=0.35, bg_label=0)
        Image.fromarray((drawn * 255).astype(np.uint8)).save(into / "drawn" / f"{stem}.png")
        rows.append(row | {"treatment": name, "objects": int(pieces.max())})
    table = pd.DataFrame(rows)
    table.to_csv(into / "segments.csv", index=False)
    return table


def load_function(text: str) -> SplitOverlap:
    """The function that ``module:name`` names.

    Raises:
        UsageError: when there is no such function.
    """
    module, _, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function: SplitOverlap = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--overlap = {text!r} names no function: {error}. Give module:function.") from None
    return function


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--model", default="models:/supcam@production")
    parser.add_argument("--overlap", help="module:function, (H, W) uint8 to labels; default: keep whole")
    given = parser.parse_args()
    try:
        function = load_function(given.overlap) if given.overlap else keep_whole
        table = segment(given.crops, given.into, given.model, function)
    except SupcamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(table.groupby(["treatment", "type"])["objects"].agg(crops="size", objects="sum").to_string())


if __name__ == "__main__":
    main()
