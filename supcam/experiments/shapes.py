"""The geometric baseline: shape features of a crop's masks and a random forest, no network."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops
from skimage.morphology import skeletonize
from sklearn.ensemble import RandomForestClassifier

from supcam.cluster_type import TYPE_LABELS
from supcam.composition.masks import EIGHT, Grey, Mask, find_body
from supcam.data.crops import CropSet
from supcam.experiments.recipe import RecipeResult
from supcam.settings import ComposeSettings, Settings
from supcam.training.crop_bank import check_training_crops, label_weights

_TREES = 500
_SHAPE = (
    "area", "perimeter", "solidity", "eccentricity", "extent", "axis_major_length", "axis_minor_length",
    "euler_number", "area_convex", "equivalent_diameter_area",
)  # fmt: skip
FEATURES: tuple[str, ...] = (
    *(f"{mask}_{name}" for mask in ("halo", "core") for name in _SHAPE),
    "core_share", "core_parts", "largest_part_share", "skeleton_length", "skeleton_ends", "skeleton_branches",
    "grey_median", "grey_darkest", "grey_spread", "very_dark_share",
)  # fmt: skip


def run_forest(train: CropSet, held_out: CropSet, settings: Settings) -> RecipeResult:
    """A random forest on the shape features of ``train``, and its answers to ``held_out``.

    Types weigh equally, doubtful labels half. ``runtime`` gives seed and threads; nothing else of the settings matters.

    Raises:
        UsageError: for training crops that cannot be used.
    """
    check_training_crops(train, 1, "crops")
    forest = RandomForestClassifier(
        _TREES,
        class_weight="balanced_subsample",
        min_samples_leaf=2,
        random_state=settings.runtime.seed,
        n_jobs=settings.runtime.threads,
    )
    forest.fit(shape_features(train.images), train.labels, sample_weight=label_weights(train))
    shares = np.zeros((len(held_out), len(TYPE_LABELS)))
    shares[:, forest.classes_] = forest.predict_proba(shape_features(held_out.images))
    # No tree may be sure: a share of 0 is as unlikely as half a tree.
    shares = (shares + 0.5 / _TREES) / (1 + len(TYPE_LABELS) * 0.5 / _TREES)
    return RecipeResult(np.log(shares), {"features": float(len(FEATURES))})


def shape_features(images: Sequence[Grey]) -> NDArray[np.float64]:
    """``FEATURES`` of crops, (N, F), all finite; lengths in pixels. A crop with nothing in it has zeros."""
    return np.stack([_features(image) for image in images]) if images else np.zeros((0, len(FEATURES)))


def _features(image: Grey) -> NDArray[np.float64]:
    body = find_body(image, ComposeSettings())
    core = np.zeros((0, 0), dtype=bool) if body is None else body.halo & (body.image < ComposeSettings().core_level)
    if body is None or not core.any():
        return np.zeros(len(FEATURES))
    sizes = np.bincount(ndimage.label(core, EIGHT)[0].ravel())[1:]
    greys = body.image[core].astype(np.float64)
    values = [
        *_shape(body.halo),
        *_shape(core),
        core.sum() / body.halo_area,
        len(sizes),
        sizes.max() / sizes.sum(),
        *_skeleton(core),
        np.median(greys),
        np.percentile(greys, 2),
        np.std(greys),
        np.mean(greys < 0.6 * np.median(greys)),
    ]
    return np.nan_to_num(np.asarray(values, dtype=np.float64))


def _shape(mask: Mask) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hull of two pixels
        (region,) = regionprops(mask.astype(np.uint8))  # type: ignore[no-untyped-call]
        return [float(region[name]) for name in _SHAPE]


def _skeleton(mask: Mask) -> tuple[int, int, int]:
    """Pixels of the skeleton, its end points (one neighbour) and branch points (three or more, as clumps)."""
    skeleton: Mask = skeletonize(mask)  # type: ignore[no-untyped-call]
    neighbours = ndimage.convolve(skeleton.astype(int), EIGHT.astype(int), mode="constant") - 1
    ends = int((skeleton & (neighbours == 1)).sum())
    branches = int(ndimage.label(skeleton & (neighbours >= 3), EIGHT)[1])
    return int(skeleton.sum()), ends, branches
