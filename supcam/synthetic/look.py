"""What the crops of one case share: how its chromosomes are stained, spread, photographed and cut out."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from supcam.settings import LookRanges, Range

Cut = Literal["threshold", "mask"]


@dataclass(frozen=True)
class Look:
    """One look, drawn from ``LookRanges``, whose fields say what the numbers mean and where they come from."""

    width: float
    slenderness: float
    bend: float
    kinks: float
    open_share: float
    opening: float
    groove: float
    waist: float
    roundness: float
    unevenness: float
    banded: bool
    light_bands: float
    pale_gaps: float
    spots: float
    seam: float
    sisters: float
    mottle: float
    pale_tips: float
    fluorescent: bool
    density: float
    blur: float
    halo: float
    sharpening: float
    grain: float
    noise: float
    black: float
    stretched: bool
    shading: float
    levels: int
    jpeg: int
    cut: Cut
    cut_level: float
    rim: float

    @classmethod
    def draw(cls, ranges: LookRanges, rng: np.random.Generator) -> "Look":
        """A look within the ranges, each quantity for itself."""

        def uniform(name: str) -> float:
            return _within(getattr(ranges, name), rng.random())

        def happens(name: str) -> bool:
            return bool(rng.random() < getattr(ranges, name))

        return cls(
            width=uniform("width"),
            slenderness=_log_within(ranges.slenderness, rng.random()),
            bend=uniform("bend"),
            kinks=uniform("kinks"),
            open_share=uniform("open_share"),
            opening=uniform("opening"),
            groove=uniform("groove"),
            waist=uniform("waist"),
            roundness=uniform("roundness"),
            unevenness=uniform("unevenness"),
            banded=happens("banded"),
            light_bands=uniform("light_bands"),
            pale_gaps=uniform("pale_gaps"),
            spots=uniform("spots"),
            seam=uniform("seam"),
            sisters=uniform("sisters"),
            mottle=uniform("mottle"),
            pale_tips=uniform("pale_tips"),
            fluorescent=happens("fluorescent"),
            density=_log_within(ranges.density, rng.random()),
            blur=uniform("blur"),
            halo=uniform("halo"),
            sharpening=uniform("sharpening"),
            grain=uniform("grain"),
            noise=uniform("noise"),
            black=uniform("black"),
            stretched=happens("stretched"),
            shading=uniform("shading"),
            levels=round(uniform("levels")) if happens("few_levels") else 256,
            jpeg=round(uniform("jpeg_quality")) if happens("jpeg") else 0,
            cut="mask" if happens("masked") else "threshold",
            cut_level=uniform("cut_level"),
            rim=uniform("rim"),
        )


def _within(bounds: Range, share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _log_within(bounds: Range, share: float) -> float:
    return math.exp(_within((math.log(bounds[0]), math.log(bounds[1])), share))
