"""No mutated image or archive crashes or hangs the import."""

import pytest

from tests.data.fuzz import fuzz


def test_some_mutations() -> None:
    result = fuzz(300, seed=1)
    assert result["failures"] == []
    assert int(str(result["read"])) > 5
    assert int(str(result["refused"])) > 100


@pytest.mark.stress
def test_five_thousand_mutations() -> None:
    assert fuzz(5000)["failures"] == []
