"""Facts about crops that the expectations judge, each image read once; and which crops show the same picture."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse

from supcam.progress import Progress
from supcam.serving.images import ImageError, border_of, letterbox, read_crop

HALO_LEVEL = 250
_BODY_LEVEL = 240
_SPECK = 20
_SIDE, _COEFFICIENTS = 32, 12
_EIGHT = np.ones((3, 3), dtype=bool)
_BLOCK = 256

OK = "ok"


@dataclass(frozen=True)
class Measured:
    """Facts (one row per manifest row, in its order) and picture descriptors (N, 145), float32.

    A descriptor holds the low-frequency cosine coefficients of the body's bounding box, of unit length (the continuous
    form of a perceptual hash), then the logarithms of the box's sides.
    """

    facts: pd.DataFrame
    descriptors: NDArray[np.float32]


def measure_crops(frame: pd.DataFrame, root: Path, *, progress: Progress | None = None) -> Measured:
    """Read every crop of a manifest once and measure it; what cannot be read has a ``problem`` other than ``ok``."""
    rows = []
    descriptors = np.zeros((len(frame), _COEFFICIENTS**2 + 1), dtype=np.float32)
    for index, row in enumerate(zip(frame["path"], frame["sha256"], frame["width"], frame["height"], strict=True)):
        facts, descriptor = _measure(root, *row)
        rows.append(facts)
        descriptors[index] = descriptor
        if progress:
            progress(index + 1, len(frame))
    facts_frame = pd.DataFrame(rows, columns=list(_EMPTY)) if rows else pd.DataFrame(columns=list(_EMPTY))
    kept = frame.drop(columns=[name for name in _EMPTY if name in frame.columns]).reset_index(drop=True)
    return Measured(pd.concat([kept, facts_frame], axis=1), descriptors)


def near_duplicates(descriptors: NDArray[np.float32], similarity: float, size_ratio: float) -> list[list[int]]:
    """Groups of crops linked by pictures that correlate at least ``similarity``, with sides within ``size_ratio``.

    Compared in blocks along the sorted heights, so memory stays bounded and only crops of like height meet.
    """
    known = np.flatnonzero(np.abs(descriptors[:, :-2]).sum(axis=1) > 0)
    order = known[np.argsort(descriptors[known, -2], kind="stable")]
    ordered = descriptors[order]
    heights, limit = ordered[:, -2], np.float32(np.log1p(size_ratio))
    links: list[tuple[int, int]] = []
    for start in range(0, len(order), _BLOCK):
        block = ordered[start : start + _BLOCK]
        others = ordered[start : int(np.searchsorted(heights, block[-1, -2] + limit, side="right"))]
        first, second = np.nonzero(np.triu(block[:, :-2] @ others[:, :-2].T >= similarity, 1))
        close = np.abs(block[first, -2:] - others[second, -2:]).max(axis=1, initial=0) <= limit
        links += _spanning(first[close], second[close], order[start:])
    return linked_groups(links)


def _spanning(first: NDArray[np.intp], second: NDArray[np.intp], names: NDArray[np.intp]) -> list[tuple[int, int]]:
    """The fewest links that join what the pairs join: many copies of one picture must not become all their pairs."""
    if not len(first):
        return []
    size = int(second.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(size, size))
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    leader: dict[int, int] = {}
    nodes = np.unique(np.concatenate([first, second])).tolist()
    return [(int(names[leader.setdefault(int(component[node]), node)]), int(names[node])) for node in nodes]


def linked_groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected groups of the pairs, each sorted."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pairs:
        one, two = sorted((root(first), root(second)))
        parent[two] = one
    groups: dict[int, list[int]] = {}
    for node in sorted(parent):
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())


def same_values(values: Sequence[str]) -> list[list[int]]:
    """Groups of positions that hold the same text; empty texts and single ones are left out."""
    places: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        if value:
            places.setdefault(value, []).append(index)
    return [group for group in places.values() if len(group) > 1]


_EMPTY: dict[str, object] = {
    "problem": OK,
    "bytes": OK,
    "size": OK,
    "pixels": "",
    "notes": "",
    "short_side": np.nan,
    "long_side": np.nan,
    "background": np.nan,
    "foreground": np.nan,
    "components": np.nan,
    "darkest": np.nan,
    "contrast": np.nan,
    "focus": np.nan,
}


def _measure(root: Path, path: str, sha256: str, width: int, height: int) -> tuple[list[object], NDArray[np.float32]]:
    facts = dict(_EMPTY)
    nothing = np.zeros(_COEFFICIENTS**2 + 1, dtype=np.float32)
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        facts["problem"] = "leads out of the data folder"
        return list(facts.values()), nothing
    try:
        content = (root / path).read_bytes()
        decoded = read_crop(content)
    except FileNotFoundError:
        facts["problem"] = "file is missing"
        return list(facts.values()), nothing
    except OSError as error:  # a folder, a name too long, no permission
        facts["problem"] = f"cannot be opened: {error.strerror}"
        return list(facts.values()), nothing
    except ImageError as error:
        facts["problem"] = str(error).removeprefix("image ")
        return list(facts.values()), nothing
    digest = hashlib.sha256(content).hexdigest()
    facts["bytes"] = OK if digest == sha256 else f"sha256 {digest[:12]}"
    image = decoded.image
    if image.shape != (height, width):
        facts["size"] = f"{image.shape[1]} x {image.shape[0]}"
    facts["notes"] = "; ".join(decoded.notes)
    facts["pixels"] = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    facts.update(_look(image))
    return list(facts.values()), _describe(image)


def _look(image: NDArray[np.uint8]) -> dict[str, float]:
    """Figures of one crop (H, W): sides (pixels), background level, foreground share, components, contrast, focus."""
    halo = image < HALO_LEVEL
    labels, _ = ndimage.label(halo, structure=_EIGHT)
    sizes = np.bincount(labels.ravel())[1:]
    inside = image[halo].astype(np.float32)
    smooth = ndimage.laplace(image.astype(np.float32))
    low, high = np.percentile(inside, (5, 95)) if inside.size else (np.nan, np.nan)
    return {
        "short_side": float(min(image.shape)),
        "long_side": float(max(image.shape)),
        "background": float(np.percentile(border_of(image), 90)),
        "foreground": float(halo.mean()),
        "components": float((sizes >= _SPECK).sum()),
        "darkest": float(image.min()),
        "contrast": float(high - low),
        "focus": float(smooth[halo].std()) if inside.size else np.nan,
    }


def _describe(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    body = image < _BODY_LEVEL
    out = np.zeros(_COEFFICIENTS**2 + 1, dtype=np.float32)
    if not body.any():
        return out
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    box = np.ascontiguousarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    spectrum = fft.dctn(letterbox(box, _SIDE).astype(np.float32), norm="ortho")[:_COEFFICIENTS, :_COEFFICIENTS]
    waves = spectrum.ravel()[1:]
    length = float(np.linalg.norm(waves))
    if length > 0:
        out[:-2] = waves / length
    out[-2:] = np.log(box.shape)
    return out
