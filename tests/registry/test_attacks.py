"""No way past the gate: see ``attacks.py``. ``make test`` tries every tenth, ``make stress`` all of them."""

from pathlib import Path

import pytest

from tests.registry.attacks import ATTACKS, attempt, control, prepare


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacks")
    prepare(folder)
    return folder


@pytest.mark.parametrize("name", list(ATTACKS)[::10])
def test_a_worse_model_does_not_get_past_the_gate(name: str, base: Path, tmp_path: Path) -> None:
    attempt(name, base, tmp_path)


def test_the_model_that_attacks_change_is_promoted_as_it_is(base: Path, tmp_path: Path) -> None:
    control(base, tmp_path)


def test_there_are_enough_of_them() -> None:
    assert len(ATTACKS) >= 60
