"""The crops of small real registries: rectangles whose type a model can read off their shape, as PNG files."""

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.data.manifest import manifest_hash
from supcam.data.split_report import split_hash
from supcam.registry.evidence import ProjectCrops
from supcam.registry.promotion import promote
from supcam.registry.rules import Decision, Validation
from supcam.settings import PromoteSettings
from tests.support.drawing import encode

COUNT = 40  # crops of the test part, ten of each type; as many train
WIDTHS = (3, 8, 13, 18)  # of the rectangle of each type, pixels; its height is 24
# A loaded machine answers late: the limit of time has tests of its own.
SETTINGS = PromoteSettings(min_test_crops_per_type=10, max_calibration_error=1.0, max_latency_ms=60_000)


@cache
def rectangles(count: int, seed: int) -> tuple[bytes, ...]:
    """``count`` crops as PNG, their types in turn; no two are the same picture."""
    rng = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        crop = np.full((32, 32), 255, dtype=np.uint8)
        width = WIDTHS[index % 4] + int(rng.integers(0, 3))
        crop[4:28, 6 : 6 + width] = rng.integers(86, 90, (24, width))
        crops.append(encode(crop))
    return tuple(crops)


def crop_rows(count: int, seed: int) -> pd.DataFrame:
    """Hash and type of these crops, ten of each type in forty."""
    hashes = [hashlib.sha256(content).hexdigest() for content in rectangles(count, seed)]
    return pd.DataFrame({"sha256": hashes, "type": [TYPE_LABELS[index % 4] for index in range(count)]})


def crop_images(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """The crops as a model's package reads them."""
    from supcam.serving.images import decode_crop

    return [decode_crop(content) for content in rectangles(count, seed)]


@cache
def manifest(seed: int = 0) -> pd.DataFrame:
    """The manifest of a project: 40 test crops of this seed, and 40 training crops of the seed 900 further on."""
    parts = []
    for part, at in (("test", seed), ("train", seed + 900)):
        rows = crop_rows(COUNT, at)
        parts.append(rows.assign(split=part, crop_id=[f"{at}-{index}" for index in range(COUNT)]))
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(
        path="crops/" + frame["sha256"] + ".png", case_id="", source="drawn", width=32, height=32, label_certain=True
    )


@cache
def project_crops(seed: int = 0) -> ProjectCrops:
    """The crops of a project as files."""
    root = Path(tempfile.mkdtemp(prefix="supcam-crops-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "crops").mkdir()
    for at in (seed, seed + 900):
        for content in rectangles(COUNT, at):
            (root / "crops" / f"{hashlib.sha256(content).hexdigest()}.png").write_bytes(content)
    return ProjectCrops(manifest(seed), root)


DATA = manifest_hash(manifest())
SPLIT = split_hash(manifest())
PASSED = Validation(True, DATA)


def go(uri: str, **arguments: Any) -> Decision:
    """Promote in a registry whose project has the crops of seed 0."""
    return promote(tracking_uri=uri, **{"settings": SETTINGS, "crops": project_crops(), **arguments})
