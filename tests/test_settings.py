"""Settings: profiles are valid, wrong ones are refused with name, value, range and remedy."""

from pathlib import Path

import pytest
import yaml

from supcam.errors import SettingError, UsageError
from supcam.settings import PROFILES, Settings, load_settings, parse_settings, profile_path, save_settings


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_valid_and_named(name: str) -> None:
    assert load_settings(profile_path(name)).profile == name


def test_params_yaml_is_one_of_the_profiles(project_root: Path) -> None:
    present = (project_root / "params.yaml").read_text(encoding="utf-8")
    assert present in [profile_path(name).read_text(encoding="utf-8") for name in PROFILES]


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("pretrain.margin", "9", ["pretrain.margin = 9 ", "number >= 0.0 and < 1.5707", "Correct it in params.yaml"]),
        ("pretrain.temperature", "0", ["pretrain.temperature = 0 ", "number >= 0.01 and <= 1.0"]),
        ("pretrain.epochs", "many", ["pretrain.epochs = 'many'", "integer >= 0 and <= 10000"]),
        ("pretrain.queue_size", "8", ["pretrain = {'batch_size': 64, 'queue_size': 8} ", "at least batch_size 64"]),
        ("pretrain.marginn", "0.1", ["pretrain.marginn", "margin_on", "Remove or rename"]),
        ("pretraining.margin", "0.1", ["pretraining", "pretrain"]),
        ("model.encoder", "vgg", ["model.encoder", "vgg", "resnet18"]),
        ("pretrain", "3", ["pretrain = 3 ", "a section with the keys", "margin_on"]),
        ("input.size", "33", ["input.size = 33", "integer >= 32 and <= 512 and a multiple of 8"]),
        ("tune.margin", "[0.5, 0.1]", ["tune.margin = ", "two rising numbers within 0.0 to 1.5"]),
        ("tune.temperature", "[]", ["tune.temperature", "two rising numbers within 0.01 to 1.0"]),
        ("tune.space", "{tau: [1, 2]}", ["tune.space.tau = [1.0, 2.0]", "of the section pretrain", "queue_size"]),
        ("tune.space", "{queue_size: [128, 64]}", ["tune.space.queue_size = [128.0, 64.0]", "two rising numbers"]),
        ("tune.space", "{queue_size: [1, 128]}", ["tune.space.queue_size = [1.0, 128.0]", "integer >= 2"]),
        ("tune.space", "{queue_size: []}", ["tune.space.queue_size", "each with two rising numbers"]),
        ("compose.core_level", "251", ["compose", "core_level"]),
        ("runtime.device", "tpu", ["runtime.device", "tpu", "cuda"]),
        ("split.protocol", "random", ["split.protocol", "by_case", "paper"]),
    ],
)
def test_a_wrong_setting_names_key_value_and_range(name: str, value: str, parts: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings(profile_path("sample"), {name: value})
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


def test_overrides_reach_their_setting() -> None:
    settings = load_settings(profile_path("sample"), {"pretrain.epochs": "3", "tune.margin": "[0.1, 0.2]"})
    assert settings.pretrain.epochs == 3
    assert settings.tune.margin == (0.1, 0.2)


def test_saved_settings_read_back_the_same(tmp_path: Path) -> None:
    settings = load_settings(profile_path("real"), {"compose.count": "17"})
    save_settings(settings, tmp_path / "params.yaml")
    assert load_settings(tmp_path / "params.yaml") == settings


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("- a\n", encoding="utf-8")
    with pytest.raises(UsageError, match="must hold sections"):
        load_settings(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_settings(tmp_path / "params.yaml")
    with pytest.raises(UsageError, match="does not exist"):
        load_settings(tmp_path / "nothing.yaml")


def test_every_section_of_the_profiles_is_a_section_of_the_settings() -> None:
    for file in profile_path("sample").parent.glob("*.yaml"):
        assert set(yaml.safe_load(file.read_text(encoding="utf-8"))) <= set(Settings().model_dump(by_alias=True))


def test_head_epochs_that_leave_none_were_noticed_after_hours_of_pretraining() -> None:
    # The study and pre-training came first: only the fine-tuning looked at them.
    with pytest.raises(SettingError, match=r"finetune.head_epochs = 2 is not allowed.*fewer than finetune.epochs, 2"):
        parse_settings({"finetune": {"epochs": 2, "head_epochs": 2}})
    parse_settings({"pretrain": {"epochs": 0}, "finetune": {"epochs": 1, "head_epochs": 1}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"profile: sample\n# \xd6\xd6\xd7\xd3\n", r"params.yaml: line 2 is not UTF-8. Save it as UTF-8"),
        ("profile: sample\n".encode("utf-16"), r"params.yaml: is UTF-16. Save it as UTF-8"),
        (b"runtime:\n  seed: 1\nsplit: {seed: 2}\nruntime: {}\n", r"line 4 .*'runtime' stands in line 1 already"),
        (b"runtime:\n  seed: 1\n  threads: 2\n  seed: 3\n", r"line 4 .*'seed' stands in line 2 already"),
        (b"profile: sample\nruntime: " + b"[" * 5000, r"params.yaml line 2 is nested more than 20 levels deep"),
        (b"runtime: {seed: 1\nsplit: 2\n", r"params.yaml line \d+ is not valid YAML"),
        (b"profile: a\x00b\n", r"params.yaml is not valid YAML: .*special characters"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Ended with tracebacks; of a key that stood twice the last was taken, which DVC refuses."""
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_merged_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("\ufeffruntime: &base {seed: 7}\nsplit:\n  <<: *base\n  test: 0.3\n".encode())
    settings = load_settings(path)
    assert (settings.runtime.seed, settings.split.seed, settings.split.test) == (7, 7, 0.3)
