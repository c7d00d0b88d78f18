"""Every setting with its meaning, unit, range and default, for `supcam settings` and the reference."""

from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

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
    for attribute, field in Settings.model_fields.items():
        section, name = field.annotation, field.alias or attribute
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            continue
        schemas = section.model_json_schema()["properties"]
        for key, setting in section.model_fields.items():
            unit, meaning = meanings.get(name, {}).get(key, ("", ""))
            default = setting.get_default(call_default_factory=True)
            shown = list(default) if isinstance(default, tuple) else default
            assert shown is not PydanticUndefined
            yield DescribedSetting(f"{name}.{key}", meaning, unit, allowed_values(schemas[key]), shown)
