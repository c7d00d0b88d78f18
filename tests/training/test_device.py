"""Around a training run: kernels put back as they were, and a compiler that must work before training starts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from supcam.errors import SettingError
from supcam.settings import RuntimeSettings
from supcam.training.device import check_compiler, check_sharing, choose_device, choose_precision, reproducible
from supcam.training.task import run_identity
from tests.training.small import small_settings, trained


def test_fresh_memory_is_not_filled_and_the_setting_comes_back() -> None:
    """Filling it, which deterministic kernels switch on by themselves, took a fifth of a step."""
    kernels: Any = torch.utils.deterministic
    before = kernels.fill_uninitialized_memory
    with reproducible(RuntimeSettings(), 0):
        assert torch.are_deterministic_algorithms_enabled()
        assert not kernels.fill_uninitialized_memory
    assert kernels.fill_uninitialized_memory == before


def test_the_random_state_and_the_threads_come_back() -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    with reproducible(RuntimeSettings(threads=threads + 1), 5):
        torch.rand(3)
        assert torch.get_num_threads() == threads + 1
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("module", "given", "expected"),
    [
        ("supcam", None, "10000"),
        ("supcam", "500", "500"),
        ("pipelines.finetune", None, "10000"),
        ("supcam.training.task", None, "10000"),
    ],
)
def test_threads_sleep_after_a_short_wait(module: str, given: str | None, expected: str) -> None:
    # Awake they hold up whatever else runs on the machine, and wait for it: a step took four times as long.
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    seen = (
        "import builtins, os; load = builtins.__import__\n"
        "def watched(name, *rest):\n"
        "    if name.split('.')[0] == 'torch': print(os.environ.get('GOMP_SPINCOUNT'), flush=True); os._exit(0)\n"
        "    return load(name, *rest)\n"
        f"builtins.__import__ = watched; import {module}, torch"
    )
    done = subprocess.run(
        [sys.executable, "-c", seen],
        env=environment | ({"GOMP_SPINCOUNT": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize(
    ("device", "switch"), [("cpu", "cpu._is_avx512_bf16_supported"), ("cuda", "cuda.is_bf16_supported")]
)
def test_precision_auto_is_bf16_where_it_is_native_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, switch: str
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    for native, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(f"torch.{switch}", lambda native=native, **_: native)
        assert choose_precision(RuntimeSettings(precision="auto"), torch.device(device)) == expected
        for named in ("32-true", "bf16-mixed", "64-true"):
            assert choose_precision(RuntimeSettings(precision=named), torch.device(device)) == named


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device(RuntimeSettings(device="cuda:1")) == torch.device("cuda:1")
    assert choose_device(RuntimeSettings(device="auto")) == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device(RuntimeSettings(device="auto")) == torch.device("cuda:1")
    assert choose_device(RuntimeSettings(device="cpu")) == torch.device("cpu")
    with pytest.raises(SettingError, match=r"runtime.device = 'cuda:1' is not allowed"):
        choose_device(RuntimeSettings(device="cuda:1"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SettingError, match=r"runtime.device = 'cuda' is not allowed.*at most 2 processes"):
        choose_device(RuntimeSettings(device="cuda"))


def test_processes_share_a_batch_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sharing("finetune.batch_size", 7)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_sharing("finetune.batch_size", 8)
    with pytest.raises(SettingError, match=r"finetune.batch_size = 7 is not allowed.*a multiple of .* 2"):
        check_sharing("finetune.batch_size", 7)


def test_a_checkpoint_names_the_precision_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for native in (True, False):
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda native=native: native)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
        settings = small_settings(runtime={"precision": "auto", "device": "cpu"})
        found.add(run_identity(settings, "finetune", "data")["runtime.precision"])
    assert found == {'"bf16-mixed"', '"32-true"'}


def test_the_compiler_is_asked_only_where_the_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def record(function: Any, **_: Any) -> Any:
        asked.append("compile")
        return function

    monkeypatch.setattr(torch, "compile", record)
    check_compiler(RuntimeSettings(), torch.device("cpu"))
    assert asked == []
    check_compiler(RuntimeSettings(compile=True), torch.device("cpu"))
    assert asked == ["compile"]


def test_a_missing_compiler_is_refused_before_training(tmp_path: Path, project_root: Path) -> None:
    code = (
        "from pathlib import Path; from supcam.errors import SettingError\n"
        "from tests.training.small import small_settings, trained\n"
        f"try: trained('pretrain', Path({str(tmp_path / 'state')!r}), small_settings(runtime={{'compile': True}}))\n"
        "except SettingError as error: print(error)\n"
    )
    environment = os.environ | {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, env=environment, capture_output=True, text=True, check=False
    )
    assert "setting runtime.compile = True is not allowed; allowed: false on this machine" in done.stdout, done.stderr
    assert "install a C++ compiler" in done.stdout
    assert not list((tmp_path / "state").glob("*"))


@pytest.mark.stress
def test_compiled_encoders_train_to_nearly_the_same_weights(tmp_path: Path) -> None:
    # In double precision, since an epoch of single precision lets the roundings of two orders of summing grow.
    double: dict[str, Any] = {"precision": "64-true"}
    section: dict[str, Any] = {"pretrain": {"epochs": 1}}
    plain = trained("pretrain", tmp_path / "plain", small_settings(**section, runtime=double))
    compiled = trained(
        "pretrain", tmp_path / "compiled", small_settings(**section, runtime={**double, "compile": True})
    )
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-6, atol=1e-8)
