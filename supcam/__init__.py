"""supcam: the type of chromosome cluster that a crop shows."""

import os
from typing import TYPE_CHECKING, Any

# Read when torch loads. By default its threads wait awake for each other after every operation: beside other work,
# whose turns they take, a training step took 40 times as long (docs/training.md). No result and no time alone changes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from supcam.metaphase.metaphase import Metaphase
    from supcam.registry.client import Predictor, load_production

__all__ = ["Metaphase", "Predictor", "load_production"]


def __getattr__(name: str) -> Any:
    if name == "Metaphase":
        from supcam.metaphase.metaphase import Metaphase

        return Metaphase
    if name in __all__:
        from supcam.registry import client

        return getattr(client, name)
    raise AttributeError(f"module 'supcam' has no attribute {name!r}")
