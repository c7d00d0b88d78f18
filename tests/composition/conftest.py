"""Drawn sources that the composition tests share."""

import pytest

from supcam.composition.sources import SourceCrops
from supcam.synthetic.chromosome import Drawing
from supcam.synthetic.sample import draw_crops


@pytest.fixture(scope="session")
def drawn() -> tuple[SourceCrops, list[Drawing]]:
    """Four cases of sixteen chromosomes each, and the drawings behind them."""
    return draw_crops(4, 16, 7)


@pytest.fixture(scope="session")
def crops(drawn: tuple[SourceCrops, list[Drawing]]) -> SourceCrops:
    return drawn[0]
