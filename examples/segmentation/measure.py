"""Segmentation by type against one method for all, on labelled metaphases of slides that no network saw.

    python measure.py METAPHASES --slides "A01|A06" [--model URI] [--network URI] [--into result]

METAPHASES holds images/ and labels/ (docs/masks.md); --slides is a regular expression for the beginning of their names.
Prints panoptic quality and AP50 with 95 % intervals from resampled metaphases, and writes result.json and drawings.
Where each object lies is given by the label map, so that what is measured is how it is divided.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from metaphases import Labelled, labelled_objects
from methods import Masks, Method, Network, keep_whole, plain_watershed, split_touching
from PIL import Image, ImageDraw
from quality import Counts, compare, inside, intervals
from segment import drawing, methods_by_type, open_network

import supcam
from supcam.cluster_type import ClusterType
from supcam.errors import SupcamError
from supcam.files import write_text

Segment = Callable[[Labelled], Masks]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("metaphases", type=Path)
    parser.add_argument("--slides", default=".*")
    parser.add_argument("--model", default="models:/supcam@production", help="none: by the label map's type alone")
    parser.add_argument("--network", default="models:/supcam-segmentation@production", help="or an ONNX file")
    parser.add_argument("--into", type=Path, default=Path("result"))
    given = parser.parse_args()
    try:
        network = open_network(given.network)
        objects = list(labelled_objects(given.metaphases, given.slides))
        types = None if given.model == "none" else types_of(objects, given.model)
        results = measure(objects, network, types)
    except SupcamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    given.into.mkdir(parents=True, exist_ok=True)
    write_text(given.into / "result.json", json.dumps(results, indent=2) + "\n")
    for row in results["methods"]:
        print(json.dumps(row))
    sheet(objects, network, given.into / "drawn.png")


def types_of(objects: Sequence[Labelled], model: str) -> list[ClusterType]:
    """Type of each object by a model, whatever its confidence."""
    answers = supcam.load_production(model).predict(pd.DataFrame({"image": [one.content for one in objects]}))
    return [ClusterType.parse(name) for name in answers["type"]]


def measure(objects: Sequence[Labelled], network: Network, types: Sequence[ClusterType] | None) -> dict[str, object]:
    """Quality of each way, over all chromosomes, over those in clusters, and by type."""
    routes = {kind: method for kind, (_, method) in methods_by_type(network).items()}
    by_model = dict(zip(map(id, objects), types or (), strict=types is not None))
    ways: dict[str, Segment] = {
        "by type, of the model": lambda one: routes[by_model[id(one)]](one.crop),
        "by type, of the label map": lambda one: routes[one.type](one.crop),
        "network for all": lambda one: network(one.crop),
        "watershed with merging for all": lambda one: split_touching(one.crop),
        "plain watershed for all": lambda one: plain_watershed(one.crop),
        "kept whole": lambda one: keep_whole(one.crop),
    }
    if types is None:
        del ways["by type, of the model"]
    pictures = sorted({one.picture for one in objects})
    counted: list[list[Counts]] = []
    seconds = []
    for segment in ways.values():
        started = time.process_time()
        counted.append([compare(inside(segment(one), one.truth), one.truth) for one in objects])
        seconds.append(time.process_time() - started)
    kinds: dict[str, list[bool]] = {
        "all": [True] * len(objects), "clusters": [one.type != ClusterType.INSTANCE for one in objects],
    } | {kind.label: [one.type == kind for one in objects] for kind in ClusterType}  # fmt: skip
    rows = []
    for part, chosen in kinds.items():
        grouped = [
            [
                [count for count, one, use in zip(counts, objects, chosen, strict=True) if use and one.picture == name]
                for name in pictures
            ]
            for counts in counted
        ]
        for way, row, spent in zip(ways, intervals(grouped), seconds, strict=True):
            values = {name: [round(value, 4) for value in triple] for name, triple in row.items()}
            extra = {"seconds_a_picture": round(spent / len(pictures), 3)} if part == "all" else {}
            rows.append({"method": way, "chromosomes": part, **values, **extra})
    accuracy = None
    if types is not None:
        accuracy = round(sum(kind == one.type for kind, one in zip(types, objects, strict=True)) / len(objects), 4)
    shown = {kind.label: sum(one.type == kind for one in objects) for kind in ClusterType}
    return {"pictures": len(pictures), "objects": shown, "type_accuracy": accuracy, "methods": rows}


def sheet(objects: Sequence[Labelled], network: Network, path: Path, each: int = 6, side: int = 150) -> None:
    """Drawings of the first clusters of each type: as labelled, by type, network for all, plain watershed."""
    routes = {kind: method for kind, (_, method) in methods_by_type(network).items()}
    chosen = [one for kind in list(ClusterType)[1:] for one in [o for o in objects if o.type == kind][:each]]
    page = Image.new("RGB", (5 * side, len(chosen) * side), "white")
    for row, one in enumerate(chosen):
        methods: list[Method] = [lambda crop, o=one: o.truth, routes[one.type], network, plain_watershed]
        shown = [Image.fromarray(one.crop), *(drawing(one.crop, method(one.crop)) for method in methods)]
        for column, picture in enumerate(shown):
            picture = picture.convert("RGB").resize(_fitted(picture.size, side - 8), Image.Resampling.BILINEAR)
            page.paste(picture, (column * side + 4, row * side + 4))
        ImageDraw.Draw(page).text((4, row * side), one.type.label, fill=(120, 0, 0))
    page.save(path, optimize=True)


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


if __name__ == "__main__":
    main()
