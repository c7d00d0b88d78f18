"""supcam: the type of chromosome cluster that a crop shows."""

import os
from typing import TYPE_CHECKING, Any

# Read when torch loads: how often its threads look for work before they sleep. By default they look so long that beside
# one busy process a training step takes four times as long; sleeping at once slows a free machine (docs/training.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

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
