"""Objects of labelled metaphases: crops as `supcam import --masks` cuts them, with the masks of their chromosomes."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from methods import Grey, Masks
from PIL import Image

from supcam.cluster_type import ClusterType
from supcam.data.mask_clusters import (
    Classes,
    cluster_of_classes,
    left_out,
    regions_of,
    tell_homologues,
    whole_chromosomes,
    width_factor,
)
from supcam.data.mask_files import read_label_map
from supcam.data.mask_rule import judge
from supcam.data.masks import crop_of, picture_on_white
from supcam.data.sources import OVERLAP


@dataclass(frozen=True)
class Labelled:
    """One object: picture, number, crop as PNG and as read, masks of its chromosomes (N, H, W), type by rule."""

    picture: str
    number: int
    content: bytes
    crop: Grey
    truth: Masks
    type: ClusterType


def labelled_objects(folder: Path, pattern: str) -> Iterator[Labelled]:
    """Objects of the pictures of ``folder/images`` whose names match, by the label maps of ``folder/labels``.

    All label maps tell how large the chromosomes of a class are. Objects of which the maps do not tell two homologues
    apart are left out.
    """
    classes, seen = Classes(), {}
    for path in sorted((folder / "labels").iterdir()):
        owners = read_label_map(path.read_bytes(), OVERLAP).owners
        seen[path.stem] = regions_of(owners), owners.shape
        classes.add(path.stem, seen[path.stem][0], (owners.shape[0], owners.shape[1]))
    usual = classes.usual_areas()
    for path in sorted((folder / "images").iterdir()):
        if not re.match(pattern, path.stem):
            continue
        grey = picture_on_white(path.read_bytes())
        regions, shape = seen[path.stem]
        factor = width_factor(regions)
        for region in regions:
            if left_out(region, regions, (shape[0], shape[1])) is not None:
                continue
            known = classes.totals[path.stem], usual[path.stem]
            owners, unclear = tell_homologues(region, *known)
            if unclear:
                continue
            content = crop_of(grey, region)
            crop = np.asarray(Image.open(io.BytesIO(content)))
            truth = np.stack([np.pad(mask, 2) for mask in whole_chromosomes(owners)])
            kind = judge(cluster_of_classes(region, *known), factor).type
            yield Labelled(path.stem, region.number, content, crop, truth, kind)
