"""One identity: of every setting, each key changes exactly when the setting can change what the key stands for."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from supcam.data.crops import CropSet
from supcam.errors import SettingError
from supcam.experiments.jobs import Job, JobContext
from supcam.experiments.parts import Fold
from supcam.settings import Settings, parse_settings
from supcam.stages.stage import Stage
from supcam.stages.workspace import Workspace
from supcam.tracking import UntrackedRun
from supcam.training.task import run_identity
from supcam.tuning.study import study_key

DEPS = {"outputs/compose": "aa.dir", "supcam/losses": "bb.dir"}
TRAINING = {"runtime", "input", "model", "compose.on_the_fly"}
CONTRASTIVE = {
    "pretrain.loss", "pretrain.margin", "pretrain.margin_on", "pretrain.projection", "pretrain.queue_size",
    "pretrain.temperature", "pretrain.epochs",
}  # fmt: skip
# Written out here and not taken from the marks: a mark set by mistake has to fail a test.
WITHOUT_EFFECT = {
    "profile", "runtime.progress", "input.memory_map", "compose.workers", "tune.trials", "tune.workers", "tune.storage",
    "tune.study", "ablation.workers", "promote.notify", "promote.notify_timeout",
}  # fmt: skip
# Values that no rule below would find.
OTHERS: dict[str, Any] = {
    "runtime.device": "cpu",
    "runtime.precision": "64-true",  # auto may be what the machine has anyway
    "validate.warn": ["near_duplicates"],
    "validate.stop": ["near_duplicates"],
    "compose.target_shares": {"touching": 1.0},
    "compose.cells": ["instance+instance:touch"],
    "compose.relation_mix": {"touch": 1.0},
    "compose.chain_shares": [1.0],
    "compose.scale": [0.8, 1.2],
    "validate_composed.warn": ["x"],
    "validate_composed.stop": ["x"],
    "tune.margin": [0.0, 0.5],
    "tune.temperature": [0.1, 0.2],
    "tune.space": {"queue_size": [256, 1024]},
    "tune.storage": "sqlite:///x.db",
    "tune.study": "mine",
    "pretrain.drawn_first": 0.0,
    "finetune.drawn_first": 0.0,
    "ablation.rows": ["ce"],
    "ablation.sweeps": {"pretrain.margin": [0.1]},
    "check.padding": [0.2],
    "promote.floors": {"touching": 0.5},
    "promote.notify": ["true"],
}


def stage_key(stage: str) -> Callable[[Settings], Any]:
    def key(settings: Settings) -> str:
        root = Path("project")
        return Stage(stage, Workspace(root, settings, root), UntrackedRun(root), {"deps": DEPS}).state.name

    return key


def job_key(model: Any) -> Callable[[Settings], str]:
    crops = CropSet(pd.DataFrame({"crop_id": ["a"], "type": ["instance"]}), [np.zeros((8, 8), dtype=np.uint8)])
    one = np.array([0])
    return lambda settings: JobContext(crops, Path()).key(Job("row", settings, Fold(0, one, one, one), model))


# Each key, and the settings that it stands for.
KEYS: dict[str, tuple[Callable[[Settings], Any], set[str]]] = {
    "stage pretrain": (stage_key("pretrain"), TRAINING | {"pretrain"}),
    "stage finetune": (stage_key("finetune"), TRAINING | CONTRASTIVE | {"finetune"}),
    "study": (
        lambda settings: study_key(DEPS, settings).rpartition("-")[2],
        TRAINING | {"pretrain", "finetune", "tune"},
    ),
    "run pretrain": (lambda settings: run_identity(settings, "pretrain", "data"), TRAINING | {"pretrain"}),
    "run finetune": (
        lambda settings: run_identity(settings, "finetune", "data"),
        TRAINING | CONTRASTIVE | {"finetune"},
    ),
    "job": (job_key("network"), {"runtime", "input", "model", "compose", "pretrain", "finetune"}),
    "forest": (job_key("forest"), {"runtime.seed", "runtime.threads"}),
}


def values_of(settings: Settings) -> dict[str, Any]:
    values: dict[str, Any] = settings.model_dump(by_alias=True)
    return values


def every_setting(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        name = f"{prefix}{field.alias or key}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_setting(field.annotation, f"{name}.")
        else:
            yield name


def changed(settings: Settings, name: str) -> Settings:
    """The settings with another allowed value of one setting."""
    section, _, key = name.rpartition(".")
    values = values_of(settings)
    target = values
    for part in section.split(".") if section else ():
        target = target[part]
    for candidate in candidates(name, target[key]):
        target[key] = candidate
        try:
            found = parse_settings(values)
        except SettingError:
            continue
        if values_of(found) != values_of(settings):
            return found
    raise AssertionError(f"no other value of {name} is known to this test: add one to OTHERS")


def candidates(name: str, value: Any) -> list[Any]:
    if name in OTHERS:
        return [OTHERS[name]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1, value + 8, value * 2, value * 0.5, value * 0.9, value + 0.1]
    if isinstance(value, tuple):
        return [(value[0], (value[0] + value[1]) / 2)]
    section = Settings.model_fields.get(name.partition(".")[0]) or Settings.model_fields["validate_"]
    annotation: Any = section.annotation
    literal = annotation.model_fields[name.partition(".")[2]].annotation if "." in name else str
    return [*getattr(literal, "__args__", ()), "another"]


@cache
def with_each_changed(on_the_fly: bool) -> tuple[Settings, dict[str, Settings]]:
    """Settings, and for every one of them the settings with another value of it."""
    base = parse_settings({"runtime": {"device": "auto"}, "compose": {"on_the_fly": on_the_fly, "drawn": {"looks": 2}}})
    return base, {name: changed(base, name) for name in every_setting()}


@pytest.mark.parametrize("on_the_fly", [False, True], ids=["composed before", "composed on the fly"])
@pytest.mark.parametrize("kind", KEYS)
def test_a_key_changes_exactly_when_a_setting_it_stands_for_does(kind: str, on_the_fly: bool) -> None:
    key, reads = KEYS[kind]
    if "compose.on_the_fly" in reads and on_the_fly:
        reads = reads | {"compose"}
    base, others = with_each_changed(on_the_fly)
    before = key(base)
    found = {name for name, other in others.items() if key(other) != before}
    expected = {
        name for name in every_setting() if {name, name.partition(".")[0]} & reads and name not in WITHOUT_EFFECT
    }
    assert found == expected


def test_a_study_that_composes_on_the_fly_is_another_one() -> None:
    """Finished trials of the composed set decided after the switch: the key left the setting out."""
    settings = Settings()
    assert study_key(DEPS, changed(settings, "compose.on_the_fly")) != study_key(DEPS, settings)


@pytest.mark.parametrize("dep", DEPS)
def test_data_and_code_count(dep: str) -> None:
    other = {**DEPS, dep: "cc.dir"}
    assert study_key(other, Settings()) != study_key(DEPS, Settings())
    assert len({run_identity(Settings(), "pretrain", data)["data"] for data in ("one", "two")}) == 2
