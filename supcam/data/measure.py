"""What is measured of each crop, every image read once; and which crops show nearly the same picture."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, ndimage

from supcam.data.fingerprints import SIZE, fingerprint
from supcam.data.groups import connected, merged
from supcam.progress import Progress
from supcam.serving.gate import WITHOUT_TYPE, picture_reasons
from supcam.serving.images import FOREGROUND, ImageError, Reading, letterbox, read_crop
from supcam.serving.paper import edges_of
from supcam.workers import ended_on_error, worker_pool

OK = "ok"

_BODY_LEVEL = 240
# Components of fewer pixels are dust, not bodies.
_SPECK = 20
_SIDE, _COEFFICIENTS = 32, 12
_EIGHT = np.ones((3, 3), dtype=bool)
# Rows of descriptors compared at a time: bounds the memory, whatever the number of crops.
_BLOCK = 256

# Fewer crops are measured before worker processes have started.
_ALONE = 1500

_NUMBERS = ("short_side", "long_side", "background", "foreground", "components", "darkest", "contrast", "focus")
# Facts of a crop that cannot be read.
_UNKNOWN = {
    "problem": OK,
    "bytes": OK,
    "size": OK,
    "pixels": "",
    "notes": "",
    "not_a_crop": "",
    "doubtful": "",
    **dict.fromkeys(_NUMBERS, np.nan),
}


def measure_crops(
    frame: pd.DataFrame, root: Path, *, progress: Progress | None = None
) -> tuple[pd.DataFrame, NDArray[np.float32], NDArray[np.float32]]:
    """Read every crop of a manifest once and measure it; ``root`` is the folder its paths start from.

    Returns the rows with further columns; descriptors (N, 145): low-frequency cosine coefficients of the body's
    bounding box, of unit length (the continuous form of a perceptual hash), then the logarithms of the box's sides;
    and fingerprints (N, 256), see ``fingerprints``. Both are all 0 if unreadable.

    The columns: ``problem``, ``bytes`` and ``size`` (``ok``, or what differs from the manifest), ``pixels``
    (hash of the picture as read), ``notes`` (what reading had to change), ``not_a_crop`` and ``doubtful`` (the reasons
    for which a prediction would have no type, or go to review), sides in pixels, ``background`` and ``darkest`` (grey
    levels), ``foreground`` (share of the area), ``components`` (bodies), ``contrast`` and ``focus``.
    The numbers of a crop that cannot be read are not a number.
    """
    crops = list(zip(frame["path"], frame["sha256"], frame["width"], frame["height"], strict=True))
    rows = []
    descriptors = np.zeros((len(frame), _COEFFICIENTS**2 + 1), dtype=np.float32)
    prints = np.zeros((len(frame), SIZE), dtype=np.float32)
    with _mapping(len(crops)) as mapped:
        for index, (facts, descriptor, print_) in enumerate(mapped(partial(_measured, root), crops)):
            rows.append(_UNKNOWN | facts)
            descriptors[index], prints[index] = descriptor, print_
            if progress:
                progress(index + 1, len(frame))
    kept = frame.drop(columns=list(_UNKNOWN), errors="ignore").reset_index(drop=True)
    return pd.concat([kept, pd.DataFrame(rows, columns=list(_UNKNOWN))], axis=1), descriptors, prints


@contextmanager
def _mapping(count: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map``, in a process for each core where the crops are so many that starting these pays."""
    cores = len(os.sched_getaffinity(0))
    if count < _ALONE or cores == 1:
        yield map
        return
    pool = worker_pool(cores)
    try:
        with ended_on_error():
            yield partial(pool.map, chunksize=64)
    finally:
        pool.shutdown(cancel_futures=True)


def near_duplicates(descriptors: NDArray[np.float32], similarity: float, size_ratio: float) -> list[list[int]]:
    """Groups of crops linked by pictures that correlate at least ``similarity``, with sides within ``size_ratio``.

    Compared in blocks along the sorted heights, so memory stays bounded and only crops of similar height meet.
    """
    known = np.flatnonzero(np.abs(descriptors[:, :-2]).sum(axis=1) > 0)
    order = known[np.argsort(descriptors[known, -2], kind="stable")]
    ordered = descriptors[order]
    heights, limit = ordered[:, -2], np.float32(np.log1p(size_ratio))
    groups: list[list[int]] = []
    for start in range(0, len(order), _BLOCK):
        block = ordered[start : start + _BLOCK]
        others = ordered[start : int(np.searchsorted(heights, block[-1, -2] + limit, side="right"))]
        first, second = np.nonzero(np.triu(block[:, :-2] @ others[:, :-2].T >= similarity, 1))
        close = np.abs(block[first, -2:] - others[second, -2:]).max(axis=1, initial=0) <= limit
        # Grouped block by block: the pairs of many copies of one picture are too many to keep.
        pairs = np.column_stack((first[close], second[close]))
        groups += [order[start:][group].tolist() for group in connected(pairs)]
    return merged(groups)


def _measured(
    root: Path, crop: tuple[str, str, int, int]
) -> tuple[dict[str, object], NDArray[np.float32] | float, NDArray[np.float32] | float]:
    """Facts, descriptor and fingerprint of one crop; 0 for both where it cannot be read."""
    facts, image = _measure(root, *crop)
    return (facts, 0.0, 0.0) if image is None else (facts, _describe(image), fingerprint(image))


def _measure(
    root: Path, path: str, sha256: str, width: int, height: int
) -> tuple[dict[str, object], NDArray[np.uint8] | None]:
    try:
        pure = PurePosixPath(path)
        if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
            raise ImageError("leads out of the data folder")
        if (root / path).exists() and not ((root / path).is_file() or (root / path).is_dir()):
            raise ImageError("is a pipe or device, not a file")
        content = (root / path).read_bytes()
        decoded = read_crop(content)
    except FileNotFoundError:
        return {"problem": "file is missing"}, None
    except OSError as error:  # a folder, a name too long, no permission
        return {"problem": f"cannot be opened: {error.strerror}"}, None
    except ImageError as error:
        return {"problem": str(error).removeprefix("image ")}, None
    digest, shape = hashlib.sha256(content).hexdigest(), decoded.shape
    recorded = {
        "bytes": OK if digest == sha256 else f"sha256 {digest[:12]}",
        "size": OK if shape == (height, width) else f"{shape[1]} x {shape[0]}",
    }
    return recorded | _look(decoded), decoded.image


def _look(decoded: Reading) -> dict[str, object]:
    image = decoded.image
    reasons = picture_reasons(decoded.measurements)
    halo = image < FOREGROUND
    labels, _ = ndimage.label(halo, structure=_EIGHT)
    sizes = np.bincount(labels.ravel())[1:]
    inside = image[halo].astype(np.float32)
    edges = ndimage.laplace(image.astype(np.float32))
    low, high = np.percentile(inside, (5, 95)) if inside.size else (np.nan, np.nan)
    return {
        "pixels": hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest(),
        "notes": "; ".join(decoded.notes),
        "not_a_crop": "; ".join(reason for reason in reasons if reason in WITHOUT_TYPE),
        "doubtful": "; ".join(reason for reason in reasons if reason not in WITHOUT_TYPE),
        "short_side": float(min(decoded.shape)),
        "long_side": float(max(decoded.shape)),
        "background": float(np.percentile(edges_of(image), 90)),
        "foreground": float(halo.mean()),
        "components": float((sizes >= _SPECK).sum()),
        "darkest": float(image.min()),
        "contrast": float(high - low),
        "focus": float(edges[halo].std()) if inside.size else np.nan,
    }


def _describe(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    body = image < _BODY_LEVEL
    out = np.zeros(_COEFFICIENTS**2 + 1, dtype=np.float32)
    if not body.any():
        return out
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    box = np.ascontiguousarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    spectrum = fft.dctn(letterbox(box, _SIDE).astype(np.float32), norm="ortho")[:_COEFFICIENTS, :_COEFFICIENTS]
    waves = spectrum.ravel()[1:]  # without the mean, or a darker copy would be another picture
    length = float(np.linalg.norm(waves))
    if length > 0:
        out[:-2] = waves / length
    out[-2:] = np.log(box.shape)
    return out
