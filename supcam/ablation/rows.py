"""Rows of the table: what each changes in the settings, and nothing else."""

from supcam.settings import Settings, parse_settings


def with_seed(settings: Settings, seed: int) -> Settings:
    """The settings with another seed of composition and training; the split stays."""
    values = settings.model_dump(by_alias=True)
    values["runtime"]["seed"] = values["compose"]["seed"] = seed
    return parse_settings(values)
