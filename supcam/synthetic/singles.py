"""Single chromosomes of many looks, to train with and to compose from."""

from contextlib import suppress

import numpy as np
import pandas as pd

from supcam.cluster_type import ClusterType
from supcam.composition.masks import Grey
from supcam.composition.workers import Workers, results
from supcam.data.crops import CropSet
from supcam.data.manifest import DRAWN
from supcam.errors import SettingError
from supcam.settings import DrawnSettings
from supcam.synthetic.chromosome import draw_look

_WORTH_A_PROCESS = 16  # looks
_TRIES = 20


def with_drawn(crops: CropSet, drawn: DrawnSettings, workers: int = 1) -> CropSet:
    """The crops, followed by the single chromosomes that the settings draw."""
    return crops.concat(draw_singles(drawn, workers)) if drawn.looks else crops


def draw_singles(drawn: DrawnSettings, workers: int = 1) -> CropSet:
    """``drawn.singles`` single chromosomes of each of ``drawn.looks`` looks, as training crops; a look is a case.

    The same settings give the same crops, whatever the number of workers.
    """
    looks = range(drawn.looks)
    if workers == 1 or drawn.looks < _WORTH_A_PROCESS:
        cases = [_of_look(drawn, look) for look in looks]
    else:
        with Workers(drawn, workers) as pool:
            cases = list(results(pool.submit(_of_look, looks)))
    images = [image for case in cases for image in case]
    numbers = np.divmod(np.arange(len(images)), drawn.singles)
    names = [f"{DRAWN}-{look:04d}-{number:03d}" for look, number in zip(*numbers, strict=True)]
    frame = pd.DataFrame(
        {
            "crop_id": names,
            "path": [f"drawn/{name}.png" for name in names],
            "type": ClusterType.INSTANCE.label,
            "case_id": [f"look{look:04d}" for look in numbers[0]],
            "source": DRAWN,
            "width": [image.shape[1] for image in images],
            "height": [image.shape[0] for image in images],
            "label_certain": True,
            "split": "train",
            "relation": DRAWN,
        }
    )
    return CropSet(frame, images)


def _of_look(drawn: DrawnSettings, number: int) -> list[Grey]:
    """The crops of a look; a look of which some chromosome is too pale for its cut is drawn again.

    Raises:
        SettingError: when so many looks in a row are too pale that the ranges leave nothing to draw.
    """
    for attempt in range(_TRIES - 1):
        with suppress(SettingError):
            return _images(drawn, number, *((attempt,) if attempt else ()))
    return _images(drawn, number, _TRIES - 1)


def _images(drawn: DrawnSettings, number: int, *again: int) -> list[Grey]:
    look = draw_look(drawn.ranges, drawn.seed, number, drawn.singles, *again)
    return [drawing.image for drawing in look]
