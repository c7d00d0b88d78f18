"""Every setting with its meaning, unit, range and default, for `supcam settings` and the reference."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from supcam.settings import Settings, allowed_values


class DescribedSetting(NamedTuple):
    """One setting: its name as ``section.key``; default and allowed values as text."""

    name: str
    meaning: str
    unit: str
    allowed: str
    default: object


def described_settings() -> Iterator[DescribedSetting]:
    """All settings, in the order of ``supcam/settings.py``; one without a meaning has empty texts."""
    meanings = yaml.safe_load((files("supcam") / "meanings.yaml").read_text(encoding="utf-8"))
    return _below(Settings, "", meanings)


def _below(model: type[BaseModel], prefix: str, meanings: Mapping[str, Any]) -> Iterator[DescribedSetting]:
    """The settings of a section and of the sections in it; ``profile``, which is in none, is left out."""
    schemas = model.model_json_schema()["properties"]
    for attribute, field in model.model_fields.items():
        key, kind = field.alias or attribute, field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _below(kind, f"{prefix}{key}.", meanings.get(key, {}))
        elif prefix:
            unit, meaning = meanings.get(key, ("", ""))
            default = field.get_default(call_default_factory=True)
            shown = list(default) if isinstance(default, tuple) else default
            assert shown is not PydanticUndefined
            yield DescribedSetting(f"{prefix}{key}", meaning, unit, allowed_values(schemas[key]), shown)
