"""Speed of composition beside a plain reference, and whether composites can be told from real crops."""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from benchmarks.realism import Realism, realism
from supcam.cluster_type import ClusterType, Relation
from supcam.composition.composer import Composer, Composite, SourceCrops
from supcam.composition.masks import Body, dilate
from supcam.composition.placement import LEAST_CROSSING, Shifts, least_shared, touch_guards
from supcam.composition.stream import ComposedStream, DeviceStream, Stream
from supcam.data.crops import CropSet
from supcam.serving.images import decode_crop
from supcam.settings import ComposeSettings
from supcam.synthetic import draw_crops

_PAIRS = ["instance+instance:touch", "instance+instance:overlap"]
_REAL = ("clinical-12-cases", "mfish-slides")
_CHAIN = [0.0, 0.0, 1.0]

Row = dict[str, object]


def settings_for(chain: bool) -> ComposeSettings:
    """Pairs of instances, or chains of four."""
    return ComposeSettings(cells=_PAIRS, chain_shares=_CHAIN if chain else [1.0])


def reference_shifts(first: Body, second: Body, relation: Relation, settings: ComposeSettings) -> Shifts:
    """What ``placement.admissible`` finds, by trying shift after shift with NumPy slices of the same masks."""
    grown, (apart, near) = dilate(first.halo), touch_guards(first, second, settings)
    smaller_core, smaller_halo = min(first.core_area, second.core_area), min(first.halo_area, second.halo_area)
    least = least_shared(first, second)
    most = min(settings.max_halo_overlap, settings.max_halo_overlap_share * smaller_halo)
    low = max(settings.min_core_overlap_share * smaller_core, LEAST_CROSSING * first.width * second.width)
    high = settings.max_core_overlap_share * smaller_core
    found, weights = [], []
    (height, width), (tall, wide) = first.halo.shape, second.halo.shape
    for row in range(1 - tall, height):
        rows = slice(max(row, 0), min(row + tall, height))
        other_rows = slice(rows.start - row, rows.stop - row)
        for column in range(1 - wide, width):
            here = rows, slice(max(column, 0), min(column + wide, width))
            there = other_rows, slice(here[1].start - column, here[1].stop - column)
            cores = np.count_nonzero(first.core[here] & second.core[there])
            if relation is Relation.TOUCH:
                haloes = np.count_nonzero(first.halo[here] & second.halo[there])
                contact = np.count_nonzero(grown[here] & second.halo[there])
                if (
                    not (apart[here] & near[there]).any()
                    and least <= haloes <= most
                    and contact >= settings.min_contact
                ):
                    found.append((row, column))
                    weights.append(float(contact) ** settings.contact_power)
            elif low <= cores <= high:
                found.append((row, column))
                weights.append(1.0)
    edges = np.cumsum(weights)
    return Shifts(np.array(found, dtype=np.int64).reshape(-1, 2), edges / edges[-1] if edges.size else edges)


def accepted_per_second(composer: Composer, seconds: float, start: int = 0) -> float:
    """Composites of the length asked for that are accepted per second of wall time in this process."""
    length = 1 + len(composer.settings.chain_shares)
    begun, index, made = time.perf_counter(), start, 0
    while time.perf_counter() - begun < seconds:
        found = composer.compose(0, index)
        # A chain whose last source found no place ends earlier; it counts as what it was not asked to be: not at all.
        made += isinstance(found, Composite) and len(found.parents) >= length
        index += 1
    return made / (time.perf_counter() - begun)


def _work(job: tuple[bool, float, int]) -> float:
    chain, seconds, start = job
    composer = Composer(draw_crops(8, 24, 0)[0], settings_for(chain))
    accepted_per_second(composer, 0.5)
    return accepted_per_second(composer, seconds, start)


def speed_rows(seconds: float) -> Iterator[Row]:
    """Pairs and chains at one and two workers, and the reference, all on the same drawn crops."""
    context = multiprocessing.get_context("spawn")
    for chain, name in ((False, "pairs"), (True, "chains")):
        for workers in (1, 2):
            with ProcessPoolExecutor(workers, context) as pool:
                rates = list(pool.map(_work, [(chain, seconds, 10**6 * worker) for worker in range(workers)]))
            plural = "core" if workers == 1 else "cores"
            yield {"name": f"{name}_per_second_{workers}{plural}", "value": round(sum(rates), 1), "unit": "1/s"}
    composer = Composer(draw_crops(8, 24, 0)[0], settings_for(chain=False))
    accepted_per_second(composer, 0.5)
    fast = accepted_per_second(composer, seconds)
    with mock.patch("supcam.composition.composer.admissible", reference_shifts):
        slow = accepted_per_second(composer, max(seconds, 5.0))
    yield {"name": "reference_pairs_per_second", "value": round(slow, 2), "unit": "1/s"}
    yield {
        "name": "speedup_over_reference",
        "value": round(fast / slow, 1) if slow else None,
        "unit": "ratio",
        "fast": round(fast, 1),
        "reference": round(slow, 2),
    }


def stream_rows(seconds: float, batch: int) -> Iterator[Row]:
    """On-the-fly batches, which training reads: one by one, and whole batches on a CPU core and on a GPU."""
    crops = draw_crops(8, 24, 0)[0]
    yield {"name": "stream_pairs_per_second_cpu", **_streamed(ComposedStream, crops, False, seconds, 64)}
    for device in ("cpu", "cuda"):
        for chain, name in ((False, "pairs"), (True, "chains")):
            row: Row = {"name": f"batched_{name}_per_second_{device}", "value": None, "unit": "1/s"}
            if device == "cuda" and not torch.cuda.is_available():
                yield {**row, "reason": "not measured: no GPU"}
                continue
            size = batch if device == "cpu" else 128 * batch
            yield {**row, **_streamed(partial(DeviceStream, device=device), crops, chain, seconds, size)}


def _streamed(opened: Callable[..., Stream], crops: SourceCrops, chain: bool, seconds: float, size: int) -> Row:
    """Composites of the length asked for per second, after a first batch that starts the device."""
    settings = settings_for(chain)
    stream, length = opened(crops, settings, size=64), 1 + len(settings.chain_shares)
    stream.batch(1, np.arange(size))
    begun, asked, made = time.perf_counter(), 0, 0
    while time.perf_counter() - begun < seconds:
        # The sources of each are read back, so the clock stops when the device has.
        batch = stream.batch(0, np.arange(asked, asked + size))
        asked, made = asked + size, made + sum(len(rows) >= length for rows in batch.rows)
    return {"value": round(made / (time.perf_counter() - begun), 1), "unit": "1/s", "batch": size}


def realism_rows(folder: Path, names: tuple[str, ...], bootstrap: int) -> Iterator[Row]:
    """AUC of real against composed crops, by type and source, and of the hard-cut control."""
    for kind, control in (
        (ClusterType.TOUCHING, False),
        (ClusterType.OVERLAPPING, False),
        (ClusterType.TOUCHING, True),
        (ClusterType.OVERLAPPING, True),
    ):
        row: Row = {"name": "auc_control" if control else f"auc_{kind.label}", "value": None, "unit": "AUC"}
        found = [name for name in names if (folder / name / "labels.csv").is_file()]
        if not found:
            yield {
                **row,
                "reason": f"no real crops: {folder} holds none of {', '.join(names)}; name one: --real FOLDER",
            }
        for name in found:
            yield {
                **row,
                "source": name,
                "type": kind.label,
                **_auc(
                    realism(real_crops(folder / name), kind, ComposeSettings(), control=control, bootstrap=bootstrap)
                ),
            }


def _auc(result: Realism) -> Row:
    return {
        "value": round(result.auc, 3),
        "interval": [round(result.low, 3), round(result.high, 3)],
        "real": result.real,
        "composed": result.composed,
        "cases": result.cases,
    }


def real_crops(folder: Path) -> CropSet:
    """Crops of a folder with a ``labels.csv`` (path, type, case)."""
    frame = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    frame = frame.assign(crop_id=frame["path"], case_id=frame["case"], source=folder.name)
    return CropSet(frame, [decode_crop(folder / path) for path in frame["path"]])


def main() -> None:
    """Print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="finish in a minute")
    parser.add_argument("--real", type=Path, default=Path("../shared/data"), help="folder of the real sources")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds = 1.0 if options.quick else 10.0
    for rows in (
        speed_rows(seconds),
        stream_rows(seconds, 16 if options.quick else 64),
        realism_rows(options.real, _REAL[:1] if options.quick else _REAL, 100 if options.quick else 1000),
    ):
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
