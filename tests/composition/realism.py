"""Can a classifier tell real clusters from composed ones? Features, case-wise folds, AUC with its interval.

``python -m tests.composition.realism FOLDER ...`` prints one JSON object a line for folders of real crops.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite
from supcam.composition.masks import EIGHT, WHITE, Grey, largest_component
from supcam.composition.sources import SourceCrops, Sources
from supcam.data.crops import CropSet
from supcam.serving.images import decode_crop
from supcam.settings import ComposeSettings

_RINGS = 6  # one-pixel rings from the edge inwards
_GREYS = np.array([0, 40, 60, 80, 100, 120, 140, 160, 180, 195, 210, 220, 230, 240, 250, 256])
_SLOPES = np.array([0, 3, 6, 10, 15, 20, 30, 40, 60, 80, 120, 400])


@dataclass(frozen=True)
class Realism:
    """AUC of real against composed crops of one type, with its 95 % interval by bootstrap over cases."""

    auc: float
    low: float
    high: float
    real: int
    composed: int
    cases: int


def features(image: Grey) -> NDArray[np.float64]:
    """What betrays a composite, if anything does: size, grey values, edge profile, slopes and sharpness, gaps, grain.

    Frame margins are left out: a composite takes them from its first source.
    """
    halo = largest_component(image < 250)
    grey = image.astype(np.float64)
    inside = grey[halo]
    depth = ndimage.distance_transform_edt(np.pad(halo, 1))[1:-1, 1:-1]
    rings = [grey[(depth > ring) & (depth <= ring + 1)] for ring in range(_RINGS)]
    slope = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 4.0
    bands = [ndimage.gaussian_filter(grey, s) - ndimage.gaussian_filter(grey, 2 * s) for s in (0.5, 1.0, 2.0)]
    second = np.abs(ndimage.laplace(grey))
    core = depth > 2
    values = [
        np.log(halo.sum()),
        *np.log(_box(halo)),
        halo.mean(),
        depth.max(),
        *np.percentile(depth[halo], (50, 90)),
        *(ndimage.label(image < level, EIGHT)[1] for level in (240, 230, 225, 210, 190, 160, 130)),
        ndimage.label(~halo)[1],
        *np.histogram(inside, _GREYS)[0] / inside.size,
        *np.percentile(inside, (1, 5, 25, 50, 75, 95)),
        *(value for ring in rings for value in ((ring.mean(), ring.std()) if ring.size else (WHITE, 0.0))),
        *np.histogram(slope[halo], _SLOPES)[0] / inside.size,
        *(band[core].std() if core.any() else 0.0 for band in bands),
        *(np.percentile(second[core], (50, 90, 99)) if core.any() else (0.0, 0.0, 0.0)),
        *np.histogram(grey[(depth > 3)], _GREYS[:-3])[0] / max(int((depth > 3).sum()), 1),
        # Interpolation fills the grey values that stretching the contrast left out, and smooths the grain.
        np.unique(inside).size / np.log1p(inside.size),
        *np.bincount(inside.astype(np.int64) % 4, minlength=4) / inside.size,
        *_autocorrelation(grey, core),
    ]
    return np.asarray(values, dtype=np.float64)


def _autocorrelation(grey: NDArray[np.float64], core: NDArray[np.bool_]) -> list[float]:
    """Correlation of the fine detail with itself one and two pixels along rows and columns, inside ``core``."""
    detail = grey - ndimage.gaussian_filter(grey, 1.5)
    values = []
    for lag in (1, 2):
        for axis in (0, 1):
            ahead, behind = np.s_[lag:], np.s_[:-lag]
            first, second = (detail[part] if axis == 0 else detail[:, part] for part in (ahead, behind))
            both = (core[ahead] & core[behind]) if axis == 0 else (core[:, ahead] & core[:, behind])
            spread = np.sqrt((first[both] ** 2).sum() * (second[both] ** 2).sum())
            values.append(float((first[both] * second[both]).sum() / spread) if spread > 0 else 0.0)
    return values


def _box(halo: NDArray[np.bool_]) -> tuple[int, int]:
    rows, columns = np.flatnonzero(halo.any(axis=1)), np.flatnonzero(halo.any(axis=0))
    sides = sorted((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1))
    return sides[0], sides[1]


def hard_cut(image: Grey, pixels: int = 2) -> Grey:
    """The crop without the outer ``pixels`` of its halo: what cutting at a threshold does, the positive control."""
    halo = ndimage.binary_erosion(largest_component(image < 250), EIGHT, iterations=pixels)
    cut = np.where(halo, image, np.uint8(WHITE))
    return cut if halo.any() else image


def realism(
    crops: Sources,
    kind: ClusterType,
    settings: ComposeSettings,
    *,
    seed: int = 0,
    per_real: int = 2,
    control: bool = False,
    bootstrap: int = 1000,
) -> Realism:
    """Compose ``per_real`` crops of ``kind`` for each real one, in the same case, and try to separate them.

    Folds leave out whole cases, real and composed together. ``control`` composes from hard-cut sources instead: a
    classifier worth its name finds those. AUC 0.5 is chance.

    Raises:
        ValueError: when fewer than two cases hold real crops of this type.
    """
    sources: Sources = crops
    if control:
        images = [hard_cut(image) for image in crops.images]
        sources = SourceCrops(crops.frame, images, crops.labels, crops.groups)
    groups = np.asarray(crops.groups)
    rows = np.flatnonzero(np.asarray(crops.labels) == kind)
    made, of_case = _composed_like(sources, groups[rows], kind, settings, seed, per_real)
    x = np.stack([features(image) for image in (*(crops.images[int(row)] for row in rows), *made)])
    y = np.concatenate((np.zeros(rows.size, dtype=int), np.ones(len(made), dtype=int)))
    cases = np.concatenate((groups[rows], of_case))
    names = np.unique(groups[rows])
    if names.size < 2:
        raise ValueError(f"{kind.label}: real crops of {names.size} case(s); at least 2 are needed for folds")
    scores = _held_out_scores(x, y, cases, min(10, names.size), seed)
    low, high = _interval(lambda index: _auc(y[index], scores[index]), cases, bootstrap, seed)
    return Realism(_auc(y, scores), low, high, rows.size, len(made), int(names.size))


def _composed_like(
    crops: Sources, cases: NDArray[np.str_], kind: ClusterType, settings: ComposeSettings, seed: int, per_real: int
) -> tuple[list[Grey], NDArray[np.str_]]:
    """As many composites in each case as there are real crops, times ``per_real``."""
    wanted = settings.model_copy(update={"target_shares": {kind.label: 1.0}})
    images: list[Grey] = []
    of_case: list[str] = []
    for name in np.unique(cases):
        inside = np.asarray(crops.groups) == name
        frame = crops.frame[inside].reset_index(drop=True)
        part = [image for image, keep in zip(crops.images, inside, strict=True) if keep]
        composer = Composer(SourceCrops(frame, part, np.asarray(crops.labels)[inside], [name] * len(part)), wanted)
        count = per_real * int((cases == name).sum())
        tried = (composer.compose(seed, index) for index in range(3 * count))
        kept = [made.image for made in tried if isinstance(made, Composite)][:count]
        images += kept
        of_case += [name] * len(kept)
    return images, np.asarray(of_case)


def _held_out_scores(
    x: NDArray[np.float64], y: NDArray[np.int64], cases: NDArray[np.str_], folds: int, seed: int
) -> NDArray[np.float64]:
    scores = np.zeros(len(y))
    for train, test in GroupKFold(folds).split(x, y, cases):
        model = ExtraTreesClassifier(400, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)
        scores[test] = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
    return scores


def _auc(y: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score(y, scores))


def _interval(
    statistic: Callable[[NDArray[np.int64]], float], cases: NDArray[np.str_], count: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval, whole cases drawn with replacement."""
    rng = np.random.default_rng(seed)
    of_case = [np.flatnonzero(cases == name) for name in np.unique(cases)]
    drawn = [
        statistic(np.concatenate([of_case[i] for i in rng.integers(len(of_case), size=len(of_case))]))
        for _ in range(count)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def real_crops(folder: Path) -> CropSet:
    """Crops of a folder with a ``labels.csv`` (path, type, case)."""
    frame = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    frame = frame.assign(crop_id=frame["path"], case_id=frame["case"], source=folder.name)
    return CropSet(frame, [decode_crop(folder / path) for path in frame["path"]])


def realism_rows(folder: Path) -> Iterator[dict[str, object]]:
    """AUC of real against composed crops for both pair types, each beside its hard-cut control."""
    crops = real_crops(folder)
    for kind in (ClusterType.TOUCHING, ClusterType.OVERLAPPING):
        for control in (False, True):
            result = realism(crops, kind, ComposeSettings(), control=control)
            yield {"source": folder.name, "type": kind.label, "control": control, **asdict(result)}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for row in realism_rows(Path(name)):
            print(json.dumps(row), flush=True)
