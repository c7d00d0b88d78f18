"""supcam: tells what type of chromosome cluster a crop shows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supcam.registry.client import Predictor, load_production

__all__ = ["Predictor", "load_production"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from supcam.registry import client

        return getattr(client, name)
    raise AttributeError(f"module 'supcam' has no attribute {name!r}")
