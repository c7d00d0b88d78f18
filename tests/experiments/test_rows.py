"""Every row changes what its name says and nothing else; rows that cannot be compared are refused before any work."""

import pytest
import yaml

from supcam.errors import SettingError, UsageError
from supcam.experiments.rows import ROWS, chosen_rows, job_settings, row_settings, with_overrides
from supcam.settings import PROFILES, AblationSettings, Settings, load_settings, profile_path
from tests.experiments.conftest import quick
from tests.support.imports import ROOT

FULL = quick(compose={"count": 40}, pretrain={"epochs": 3}, finetune={"epochs": 5})
DRAWING = {"compose.drawn.looks": 4, "compose.drawn.share": 0.5}


def changes(row: str) -> tuple[object, ...]:
    found = row_settings(ROWS[row], FULL)
    pretrain = (found.pretrain.loss, found.pretrain.margin_on) if found.pretrain.epochs else ("none", "none")
    return (found.compose.count > 0, *pretrain, found.finetune.epochs)


def test_rows_of_the_method() -> None:
    assert {name: changes(name) for name in AblationSettings().rows if name != "forest"} == {
        "ce": (False, "none", "none", 5),
        "ce_long": (False, "none", "none", 5),
        "ce_composition": (True, "none", "none", 5),
        "ce_composition_long": (True, "none", "none", 8),
        "supcon_out": (False, "supcon_out", "none", 5),
        "unified": (False, "unified", "none", 5),
        "unified_composition": (True, "unified", "none", 5),
        "unified_margin": (False, "unified", "self", 5),
        "supcam": (True, "unified", "self", 5),
        "supcam_all": (True, "unified", "all", 5),
        "joint": (True, "none", "none", 5),
        "supcam_joint": (True, "unified", "self", 5),
    }


def test_only_joint_rows_train_jointly_whatever_the_profile_does() -> None:
    for weight in (0.0, 2.0):
        settings = with_overrides(FULL, {**DRAWING, "finetune.contrastive_weight": weight})
        weights = {name: row_settings(row, settings).finetune.contrastive_weight for name, row in ROWS.items()}
        assert {name: found for name, found in weights.items() if found} == {"joint": 0.35, "supcam_joint": 0.35}


def test_a_joint_row_without_pretraining_can_sweep_its_loss_alone() -> None:
    chosen = {"rows": ["joint"], "reference": "joint", "sweep_row": "joint"}
    assert list(chosen_rows(ablation(**chosen, sweeps={"pretrain.margin": [0.1]}))) == ["joint", "pretrain.margin=0.1"]
    with pytest.raises(SettingError, match=r"leaves pretrain.epochs above 0 for a sweep of pretrain.momentum_end"):
        chosen_rows(ablation(**chosen, sweeps={"pretrain.momentum_end": [0.9]}))


def test_the_long_row_takes_the_steps_of_the_composites_it_leaves_out() -> None:
    for name, epochs in {"ce": 5, "ce_long": 10, "supcam": 5}.items():
        plain = row_settings(ROWS[name], FULL)
        changed = job_settings(ROWS[name], plain, FULL.compose.count, crops=40)
        assert changed == with_overrides(plain, {"finetune.epochs": epochs})


def test_settings_name_the_rows_there_are() -> None:
    assert set(AblationSettings().rows) == {name for name in ROWS if "drawn" not in name and "_real" not in name}
    assert AblationSettings().sweep_row in ROWS


@pytest.mark.parametrize("chosen", [{}, {"rows": ["ce", "supcam"], "reference": "ce"}])
def test_rows_that_pretrain_need_epochs_of_it(chosen: dict[str, object]) -> None:
    """Profile real trains jointly, without pre-training: its row supcam would be cross-entropy."""
    settings = ablation(load_settings(profile_path("real")), **chosen)
    with pytest.raises(SettingError, match=r"pretrain.epochs = 0 is not allowed; allowed: 1 or more for the row supc"):
        chosen_rows(settings)
    jointly = ablation(settings, rows=["ce_composition", "joint"], reference="joint")
    assert list(chosen_rows(jointly)) == ["ce_composition", "joint"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_compared(profile: str) -> None:
    settings = with_overrides(load_settings(profile_path(profile)), {"pretrain.epochs": 3, "compose.count": 50})
    assert list(chosen_rows(settings)) == AblationSettings().rows


def test_rows_of_drawn_and_real_crops() -> None:
    """Drawn crops of both steps, epochs on real crops at the end, share of the composites that are drawn."""
    settings = with_overrides(FULL, {**DRAWING, "finetune.real_epochs": 2})
    found = {}
    for name in ROWS.keys() - set(AblationSettings().rows):
        made = row_settings(ROWS[name], settings)
        first = (made.pretrain.drawn_first if made.pretrain.epochs else "none", made.finetune.drawn_first)
        found[name] = (*first, made.finetune.real_epochs, made.compose.drawn.share)
    assert found == {
        "ce_real": ("none", 0.0, 2, 0.5),
        "ce_plain_real": ("none", 0.0, 2, 1.0),
        "ce_drawn": ("none", 1.0, 0, 0.5),
        "ce_drawn_then_real": ("none", 0.5, 2, 0.5),
        "ce_plain_drawn_then_real": ("none", 0.5, 2, 1.0),
        "ce_drawn_and_real": ("none", None, 2, 0.5),
        "ce_plain_drawn_and_real": ("none", None, 2, 1.0),
        "supcam_real": (0.0, 0.0, 2, 0.5),
        "supcam_plain_real": (0.0, 0.0, 2, 1.0),
        "supcam_drawn": (1.0, 1.0, 0, 0.5),
        "supcam_drawn_then_real": (1.0, 0.5, 2, 0.5),
        "supcam_plain_drawn_then_real": (1.0, 0.5, 2, 1.0),
        "supcam_drawn_and_real": (None, None, 2, 0.5),
        "supcam_plain_drawn_and_real": (None, None, 2, 1.0),
    }


@pytest.mark.parametrize("missing", [{"compose.drawn.looks": 0, "compose.drawn.share": 0}, {"compose.drawn.share": 0}])
def test_rows_of_drawn_crops_need_some(missing: dict[str, object]) -> None:
    settings = with_overrides(FULL, DRAWING | missing)
    with pytest.raises(SettingError, match=r"drawn_first = 1\.0 .*compose\.drawn\.looks and compose\.drawn\.share"):
        row_settings(ROWS["supcam_drawn"], settings)


def test_a_row_leaves_other_settings_alone() -> None:
    before, after = FULL.model_dump(), row_settings(ROWS["unified"], FULL).model_dump()
    changed = {f"{s}.{k}" for s in before if isinstance(before[s], dict) for k in before[s] if before[s] != after[s]
               and before[s][k] != after[s][k]}  # fmt: skip
    assert changed == {"compose.count", "pretrain.margin_on"}


def ablation(settings: Settings = FULL, **values: object) -> Settings:
    return with_overrides(settings, {f"ablation.{name}": value for name, value in values.items()})


def test_points_of_a_sweep_vary_one_setting() -> None:
    settings = ablation(
        rows=["supcam"], reference="supcam", sweeps={"pretrain.margin": [0.0, 0.3], "compose.count": [10]}
    )
    found = chosen_rows(settings)
    assert list(found) == ["supcam", "pretrain.margin=0.0", "pretrain.margin=0.3", "compose.count=10"]
    assert found["pretrain.margin=0.3"][1].pretrain.margin == 0.3
    assert found["compose.count=10"][1].compose.count == 10
    assert found["compose.count=10"][1].pretrain.margin == FULL.pretrain.margin


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": ["supcan"], "reference": "supcan"}, r"ablation.rows = 'supcan' is not allowed; allowed: forest, ce"),
        (
            {"rows": ["ce", "supcam"]},
            r"ablation.reference = 'ce_composition'.*allowed: a row of ablation.rows: ce, supcam",
        ),
        ({"sweeps": {"pretrain.margins": [0.1]}}, r"pretrain.margins = 0.1 is not allowed.*section.key"),
        ({"sweeps": {"pretrain.margin": [0.1, 9.0]}}, r"pretrain.margin = 9.0 is not allowed"),
        ({"sweeps": {"split.validation": [0.1]}}, r"ablation.sweeps = 'split.validation' is not allowed.*of runtime, "),
        ({"sweeps": {"runtime.seed": [1, 2]}}, r"ablation.sweeps = 'runtime.seed' is not allowed.*ablation.seeds"),
        ({"sweeps": {"compose.workers": [1, 2]}}, r"'compose.workers' is not allowed.*which change no result"),
        ({"sweeps": {"runtime.progress": [True]}}, r"'runtime.progress' is not allowed.*which change no result"),
        ({"sweep_row": "supcan"}, r"ablation.sweep_row = 'supcan' is not allowed; allowed: forest, ce"),
        (
            {"sweep_row": "forest", "sweeps": {"pretrain.margin": [0.1]}},
            r"ablation.sweep_row = 'forest' is not allowed; allowed: a row that settings change: ce, ",
        ),
        ({"folds": 1}, "folds must be 0"),
        ({"rows": ["ce", "ce"]}, "must not name a row twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        chosen_rows(ablation(**values))


@pytest.mark.parametrize(
    ("switch", "sweep"),
    [
        ("finetune.real_epochs", "finetune.real_learning_rate"),
        ("compose.count", "compose.variant_share"),
    ],
)
def test_a_sweep_of_what_nothing_uses_is_refused(switch: str, sweep: str) -> None:
    settings = with_overrides(ablation(rows=["ce", "supcam"], reference="ce", sweeps={sweep: [0.1, 0.2]}), {switch: 0})
    with pytest.raises(SettingError, match=rf"{switch} = 0 is not allowed.*1 or more for a sweep of {sweep}"):
        chosen_rows(settings)


@pytest.mark.parametrize(
    ("row", "sweep", "allowed"),
    [
        ("ce", "pretrain.temperature", "leaves pretrain.epochs above 0"),
        ("ce", "finetune.head_epochs", "leaves pretrain.epochs above 0"),
        ("ce", "finetune.use_composed", "leaves compose.count above 0"),
        ("unified", "compose.variant_share", "leaves compose.count above 0"),
        ("unified_composition", "pretrain.margin", "with a margin"),
    ],
)
def test_a_sweep_of_a_row_without_what_it_changes_is_refused(row: str, sweep: str, allowed: str) -> None:
    settings = ablation(rows=[row], reference=row, sweep_row=row, sweeps={sweep: [1]})
    with pytest.raises(SettingError, match=rf"ablation.sweep_row = '{row}' is not allowed.*a row .*{allowed}"):
        chosen_rows(settings)


def test_rows_that_come_to_the_same_are_refused() -> None:
    with pytest.raises(UsageError, match=r"rows ce and ce_composition come to the same.*compose.count 0"):
        chosen_rows(quick(compose={"count": 0}, pretrain={"epochs": 2}))


def test_the_example_of_the_project_file_can_be_compared() -> None:
    text = (ROOT / "MLproject").read_text(encoding="utf-8")
    example = next(line for line in text.splitlines() if "-P ablation.rows=" in line)
    values = dict(part.split("=") for part in example.replace("#", "").split() if "=" in part)
    settings = with_overrides(FULL, {name: yaml.safe_load(value) for name, value in values.items()})
    assert list(chosen_rows(settings)) == ["ce", "supcam"]
