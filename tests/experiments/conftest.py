"""Drawn bars in cases of two sources, and settings that train a job within seconds."""

from typing import Any

import pytest

from supcam.data.crops import CropSet
from supcam.settings import Settings
from tests.training.small import small_crops, small_settings


@pytest.fixture(scope="session")
def crops() -> CropSet:
    """Bars for every test."""
    return bars()


def bars() -> CropSet:
    """96 bars in eight cases, of two sources."""
    made = small_crops(per_type=24)
    frame = made.frame.assign(
        case_id=[f"case{number % 8}" for number in range(len(made))],
        source=["one" if number % 8 < 4 else "two" for number in range(len(made))],
        sha256=made.frame["crop_id"],
        label_certain=True,
        width=[image.shape[1] for image in made.images],
        height=[image.shape[0] for image in made.images],
    )
    return CropSet(frame, made.images)


def quick(**sections: dict[str, Any]) -> Settings:
    """One epoch of each step, no composites."""
    values: dict[str, dict[str, Any]] = {
        "compose": {"count": 0},
        "pretrain": {"epochs": 0},
        "finetune": {"epochs": 1, "head_epochs": 0, "batch_size": 16, "test_views": 1},
        "split": {"validation": 0.25},
        "evaluate": {"bootstrap": 50},
    }
    return small_settings(**{name: values.get(name, {}) | sections.get(name, {}) for name in {*values, *sections}})
