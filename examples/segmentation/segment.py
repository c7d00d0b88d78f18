"""Segment chromosome crops, each by the method of its type, with the models in production.

    python segment.py CROPS --into RESULT [--model models:/supcam@production]
        [--network models:/supcam-segmentation@production]

A single chromosome is kept whole, touching ones are split, overlapping ones are taken apart by the network with the
overlap given to both, and what the model doubts is left to a person. Light client and scikit-image, no training stack.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from methods import Grey, Masks, Method, Network, keep_whole, split_touching
from numpy.typing import NDArray
from PIL import Image

import supcam
from supcam.cluster_type import ClusterType
from supcam.errors import SupcamError, UsageError
from supcam.registry.client import predict_files
from supcam.serving.images import decode_crop
from supcam.tracking.project import project_root, tracking_uri

Methods = dict[ClusterType, tuple[str, Method]]

COLOURS = np.array([(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0)])


def methods_by_type(network: Network) -> Methods:
    """What is done with a crop of each type, in words and as a function."""
    return {
        ClusterType.INSTANCE: ("kept whole", keep_whole),
        ClusterType.TOUCHING: ("network, contacts alone", network.touching),
        ClusterType.OVERLAPPING: ("network", network.cluster),
        ClusterType.TOUCHING_OVERLAPPING: ("network", network.cluster),
    }


def methods_of_ones_own(overlapping: Method) -> Methods:
    """The same without the network: a watershed for what touches, a function of one's own for what overlaps."""
    return {
        ClusterType.INSTANCE: ("kept whole", keep_whole),
        ClusterType.TOUCHING: ("watershed", split_touching),
        ClusterType.OVERLAPPING: ("own function", overlapping),
        ClusterType.TOUCHING_OVERLAPPING: ("own function", overlapping),
    }


def segment(folder: Path, into: Path, model: str, methods: Methods) -> pd.DataFrame:
    """Segment every crop below ``folder``: masks, drawings, and a table of what was done.

    Returns:
        One row a crop: path, type, confidence, treatment, objects, error.
    """
    answers = predict_files(supcam.load_production(model), [folder]).frame
    (into / "masks").mkdir(parents=True, exist_ok=True)
    (into / "drawn").mkdir(exist_ok=True)
    rows = []
    for number, answer in enumerate(answers.to_dict("records")):
        row = {name: answer[name] for name in ("path", "type", "confidence", "error")} | {"objects": 0}
        if answer["needs_review"]:
            rows.append(row | {"treatment": "left to a person"})
            continue
        name, method = methods[ClusterType.parse(answer["type"])]
        crop = decode_crop(answer["path"])
        masks = method(crop)
        stem = f"{number:05d} {Path(answer['path']).stem}"
        planes = [Image.fromarray(mask) for mask in masks]
        planes[0].save(into / "masks" / f"{stem}.tif", save_all=True, append_images=planes[1:])
        drawing(crop, masks).save(into / "drawn" / f"{stem}.png")
        rows.append(row | {"treatment": name, "objects": len(masks)})
    table = pd.DataFrame(rows)
    table.to_csv(into / "segments.csv", index=False)
    return table


def drawing(crop: Grey, masks: Masks, scale: int = 4) -> Image.Image:
    """The crop with each chromosome in a colour of its own, and both colours where two lie on each other."""
    tint = np.zeros((*crop.shape, 3))
    for number, mask in enumerate(masks):
        tint[mask] += COLOURS[number % len(COLOURS)]
    count = masks.sum(axis=0)[..., np.newaxis]
    grey = np.repeat(crop[..., np.newaxis].astype(float), 3, axis=2)
    mixed = np.where(count > 0, 0.55 * grey + 0.45 * tint / np.maximum(count, 1), grey)
    image = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)


def open_network(text: str) -> Network:
    """The network of an address ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, or of an ONNX file.

    Raises:
        SupcamError: when there is none.
    """
    if not text.startswith("models:/"):
        if not Path(text).is_file():
            raise UsageError(f"--network = {text} is not a file. Give models:/NAME@ALIAS, or an ONNX file.")
        return Network(Path(text))
    from supcam.registry.store import Registry

    name, separator, which = text.removeprefix("models:/").replace("@", "/").partition("/")
    if not separator:
        raise UsageError(f"--network = {text} names no alias or version. Give models:/NAME@ALIAS or an ONNX file.")
    registry = Registry(tracking_uri(project_root()), name)
    return Network(registry.package(registry.resolve(which)) / "model.onnx")


def load_function(text: str) -> Method:
    """A method of one's own, ``module:name``: (H, W) grey to labels from 1 (H, W), or to masks (N, H, W).

    Raises:
        UsageError: when there is no such function.
    """
    module, _, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function: Callable[[Grey], NDArray[np.generic]] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--overlap = {text!r} names no function: {error}. Give module:function.") from None

    def method(crop: Grey) -> Masks:
        found = np.asarray(function(crop))
        if found.ndim == 3:
            return found.astype(bool)
        return np.stack([found == number for number in range(1, max(2, int(found.max()) + 1))])

    return method


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--model", default="models:/supcam@production")
    parser.add_argument("--network", default="models:/supcam-segmentation@production", help="or an ONNX file")
    parser.add_argument("--overlap", help="module:function in place of the network")
    given = parser.parse_args()
    try:
        if given.overlap:
            methods = methods_of_ones_own(load_function(given.overlap))
        else:
            methods = methods_by_type(open_network(given.network))
        table = segment(given.crops, given.into, given.model, methods)
    except SupcamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(table.groupby(["treatment", "type"])["objects"].agg(crops="size", objects="sum").to_string())


if __name__ == "__main__":
    main()
