"""Drawn sources that the composition tests share."""

import pytest

from supcam.synthetic import Drawing, DrawnCrops, draw_crops


@pytest.fixture(scope="session")
def drawn() -> tuple[DrawnCrops, list[Drawing]]:
    """Four cases of sixteen chromosomes each, and the drawings behind them."""
    return draw_crops(4, 16, 7)


@pytest.fixture(scope="session")
def crops(drawn: tuple[DrawnCrops, list[Drawing]]) -> DrawnCrops:
    return drawn[0]
