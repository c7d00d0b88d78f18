"""Rows of the table: what each changes in the settings, and nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from supcam.errors import SettingError, UsageError
from supcam.identity import CONTRASTIVE, READS
from supcam.settings import Settings, parse_settings, without_effect


@dataclass(frozen=True)
class Row:
    """One recipe to compare.

    Attributes:
        name: As in ``ablation.rows``.
        description: What it is, for readers.
        overrides: Settings it changes, ``section.key`` to value.
        model: A network, or the forest on geometric features.
        all_epochs, all_steps: Whether fine-tuning gets the epochs of the pre-training that the row leaves out, or as
            many steps as with the composites that it leaves out.
    """

    name: str
    description: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    model: Literal["network", "forest"] = "network"
    all_epochs: bool = False
    all_steps: bool = False


# Sections of the settings that determine a job, besides its seed.
SECTIONS = READS["network"]
WITHOUT_EFFECT = tuple(name for name in without_effect() if name.startswith(tuple(f"{part}." for part in SECTIONS)))
_PLAIN = {"compose.count": 0}
_SCRATCH = {"pretrain.epochs": 0}
_NO_MARGIN = {"pretrain.loss": "unified", "pretrain.margin_on": "none"}
_SELF = {"pretrain.loss": "unified", "pretrain.margin_on": "self"}
_ALL = {"pretrain.loss": "unified", "pretrain.margin_on": "all"}
_JOINT = {**_SELF, "finetune.contrastive_weight": 0.35}
# Drawn and real crops, at equal steps: which epochs of each step draw from which. Composites are of both, or with
# "plain" of drawn crops alone.
_ON_DRAWN: dict[str, tuple[str, dict[str, float | None]]] = {
    "real": ("real crops", {"pretrain.drawn_first": 0.0, "finetune.drawn_first": 0.0}),
    "drawn": (
        "drawn crops",
        {"pretrain.drawn_first": 1.0, "finetune.drawn_first": 1.0, "finetune.real_epochs": 0},
    ),
    "drawn_then_real": ("drawn crops, then real ones", {"pretrain.drawn_first": 1.0, "finetune.drawn_first": 0.5}),
    "drawn_and_real": ("drawn and real crops", {"pretrain.drawn_first": None, "finetune.drawn_first": None}),
}
_PLAIN_DRAWN = {"compose.drawn.share": 1.0}


def _drawn_rows() -> list[Row]:
    rows = []
    for recipe, words, overrides in (("ce", "cross-entropy", _SCRATCH), ("supcam", "SupCAM", _SELF)):
        for crops, (which, epochs) in _ON_DRAWN.items():
            rows.append(Row(f"{recipe}_{crops}", f"{words}, composition, {which}", {**overrides, **epochs}))
            if crops != "drawn":  # clusters of drawn chromosomes are composites in any case
                plain = {**overrides, **epochs, **_PLAIN_DRAWN}
                rows.append(Row(f"{recipe}_plain_{crops}", f"{words}, no composites of real crops, {which}", plain))
    return rows


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("forest", "geometric features, random forest", model="forest"),
        Row("ce", "cross-entropy from scratch", {**_PLAIN, **_SCRATCH}),
        Row("ce_long", "cross-entropy from scratch, steps as with composition", {**_PLAIN, **_SCRATCH}, all_steps=True),
        Row("ce_composition", "cross-entropy, composition", _SCRATCH),
        Row("ce_composition_long", "cross-entropy, composition, epochs of both steps", _SCRATCH, all_epochs=True),
        Row("supcon_out", "SupCon-out", {**_PLAIN, "pretrain.loss": "supcon_out", "pretrain.margin_on": "none"}),
        Row("unified", "unified contrastive", {**_PLAIN, **_NO_MARGIN}),
        Row("unified_composition", "unified, composition", _NO_MARGIN),
        Row("unified_margin", "unified, self margin", {**_PLAIN, **_SELF}),
        Row("supcam", "SupCAM, our reading: unified, self margin, composition", _SELF),
        Row("supcam_all", "unified, margin on all positives, composition", _ALL),
        Row("joint", "cross-entropy and the loss of SupCAM jointly, composition", {**_SCRATCH, **_JOINT}),
        Row("supcam_joint", "SupCAM, then both losses jointly, composition", _JOINT),
        *_drawn_rows(),
    )
}


def row_settings(row: Row, settings: Settings) -> Settings:
    """The settings of one row; a SettingError where an override does not exist or is out of range."""
    # Joint training is a recipe of its own: rows that do not name it leave it out, whatever the profile does.
    changed = {"finetune.contrastive_weight": 0.0, **row.overrides}
    if row.all_epochs:
        changed["finetune.epochs"] = settings.finetune.epochs + settings.pretrain.epochs
    return with_overrides(settings, changed)


def job_settings(row: Row, settings: Settings, composites: int, crops: int) -> Settings:
    """The settings of a row for a part of ``crops`` training crops, where other rows add ``composites``."""
    if not row.all_steps:
        return settings
    return with_overrides(settings, {"finetune.epochs": round(settings.finetune.epochs * (1 + composites / crops))})


def with_overrides(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """The settings with some values replaced, named ``section.key``; a SettingError for one that is not allowed."""
    values = settings.model_dump(by_alias=True)
    for name, value in overrides.items():
        *sections, key = name.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not sections or not isinstance(section, dict) or key not in section:
            raise SettingError(name, value, "a setting as section.key, such as pretrain.margin (see: supcam settings)")
        section[key] = value
    return parse_settings(values)


def with_seed(settings: Settings, seed: int) -> Settings:
    """The settings with another seed of composition and training; the split stays."""
    return with_overrides(settings, {"runtime.seed": seed, "compose.seed": seed})


def chosen_rows(settings: Settings) -> dict[str, tuple[Row, Settings]]:
    """Rows and points of the sweeps that ``ablation`` asks for, by name, each with its settings.

    A point of a sweep is the row ``ablation.sweep_row`` with one setting changed, named ``section.key=value``.

    Raises:
        SettingError: for an unknown row or setting, a value out of range, or a sweep that no training would notice.
        UsageError: when two rows come to the same settings, so that their comparison says nothing.
    """
    chosen = settings.ablation
    for setting, names in (("ablation.rows", chosen.rows), ("ablation.sweep_row", [chosen.sweep_row])):
        for name in names:
            if name not in ROWS:
                raise SettingError(setting, name, ", ".join(ROWS))
    if chosen.reference not in chosen.rows:
        raise SettingError("ablation.reference", chosen.reference, f"a row of ablation.rows: {', '.join(chosen.rows)}")
    _refuse_without_pretraining([*chosen.rows, *([chosen.sweep_row] if chosen.sweeps else [])], settings)
    found = {name: (ROWS[name], row_settings(ROWS[name], settings)) for name in chosen.rows}
    _refuse_twins(found)
    base = ROWS[chosen.sweep_row]
    if chosen.sweeps and base.model == "forest":
        networks = ", ".join(name for name, row in ROWS.items() if row.model == "network")
        raise SettingError("ablation.sweep_row", base.name, f"a row that settings change: {networks}")
    for setting, values in chosen.sweeps.items():
        if setting.partition(".")[0] not in SECTIONS or setting.endswith(".seed") or setting in WITHOUT_EFFECT:
            allowed = (
                f"settings of {', '.join(SECTIONS)}, without seeds (those are ablation.seeds) and "
                f"{' and '.join(WITHOUT_EFFECT)}, which change no result"
            )
            raise SettingError("ablation.sweeps", setting, allowed)
        for value in values:
            name, description = f"{setting}={value}", f"{base.description}; {setting} {value}"
            changed = with_overrides(row_settings(base, settings), {setting: value})
            _refuse_unused(setting, base, changed)
            point = Row(name, description, {**base.overrides, setting: value}, all_steps=base.all_steps)
            found[name] = (point, changed)
    return found


# What acts in a step that another setting switches off; all points of such a sweep would be one training.
_SWITCHES = {
    "finetune.real_learning_rate": "finetune.real_epochs",
    "finetune.head_epochs": "pretrain.epochs",
    "finetune.use_composed": "compose.count",
}
_SECTION_SWITCHES = {"pretrain": "pretrain.epochs", "compose": "compose.count"}


def _refuse_unused(setting: str, row: Row, settings: Settings) -> None:
    switch = _SWITCHES.get(setting) or _SECTION_SWITCHES.get(setting.partition(".")[0], setting)
    section, _, key = switch.partition(".")
    margin = setting.startswith("pretrain.margin") and setting != "pretrain.margin_on"
    if margin and settings.pretrain.margin_on == "none":
        raise SettingError("ablation.sweep_row", row.name, f"a row with a margin for a sweep of {setting}")
    if setting in CONTRASTIVE and settings.finetune.contrastive_weight:
        return
    if switch == setting or getattr(getattr(settings, section), key):
        return
    if switch in row.overrides:
        allowed = f"a row that leaves {switch} above 0 for a sweep of {setting}"
        raise SettingError("ablation.sweep_row", row.name, allowed)
    raise SettingError(switch, 0, f"1 or more for a sweep of {setting}, which acts there alone")


def _refuse_without_pretraining(names: Iterable[str], settings: Settings) -> None:
    """Rows that do not set the epochs of pre-training take those of the settings, and would be cross-entropy alone."""
    for name in names:
        row = ROWS[name]
        if row.model == "network" and "pretrain.epochs" not in row.overrides and not settings.pretrain.epochs:
            raise SettingError("pretrain.epochs", 0, f"1 or more for the row {name}, which pre-trains")


def _refuse_twins(rows: Mapping[str, tuple[Row, Settings]]) -> None:
    seen: dict[tuple[str, bool, str], str] = {}
    for name, (row, settings) in rows.items():
        key = (row.model, row.all_steps, settings.model_dump_json())
        if key in seen:
            raise UsageError(
                f"rows {seen[key]} and {name} come to the same settings (compose.count {settings.compose.count}, "
                f"pretrain.epochs {settings.pretrain.epochs}). Raise those above 0, or leave one out of ablation.rows."
            )
        seen[key] = name
