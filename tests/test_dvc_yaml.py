"""dvc.yaml says the truth: what a stage can reach and what can change its result are its deps, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from supcam.settings import profile_path
from tests.support.imports import CANNOT_CHANGE_A_RESULT, ROOT, all_imports, module_path

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def script_of(stage: str) -> Path:
    module = STAGES[stage]["cmd"].removeprefix("python -m ")
    path = module_path(module)
    assert path is not None, f"stage {stage} runs {module}, which does not exist"
    return path


def code_deps(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if dep.startswith(("supcam/", "pipelines/"))}


def reached(stage: str) -> set[str]:
    script = script_of(stage)
    files = [script]
    for name in all_imports(script):
        path = module_path(name)
        if path is not None:
            files.append(path)
    # A package's __init__ runs, but what it does changes no result.
    names = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    return {name for name in names if not any(covers(other, name) for other in CANNOT_CHANGE_A_RESULT)}


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(dep.rstrip("/") + "/")


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_a_stage_reaches_is_a_dep(stage: str) -> None:
    deps = code_deps(stage)
    missing = {file for file in reached(stage) if not any(covers(dep, file) for dep in deps)}
    assert not missing, f"add to the deps of {stage}: {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_code_it_cannot_reach(stage: str) -> None:
    files = reached(stage)
    idle = {dep for dep in code_deps(stage) if not any(covers(dep, file) for file in files)}
    assert not idle, f"remove from the deps of {stage}: {sorted(idle)}"


@pytest.mark.parametrize("module", CANNOT_CHANGE_A_RESULT)
def test_what_cannot_change_a_result_is_a_module_that_no_stage_depends_on(module: str) -> None:
    assert (ROOT / module).exists()
    assert [stage for stage in STAGES if any(covers(dep, module) for dep in code_deps(stage))] == []


@pytest.mark.parametrize("profile", ["sample", "real", "chrcluster"])
@pytest.mark.parametrize("stage", STAGES)
def test_params_of_a_stage_are_in_every_profile(stage: str, profile: str) -> None:
    # DVC does not know defaults: a parameter that params.yaml lacks stops the pipeline.
    values = yaml.safe_load(profile_path(profile).read_text(encoding="utf-8"))
    for name in STAGES[stage].get("params", []):
        section, _, key = name.partition(".")
        assert section in values, f"{stage} names the section {section}, which profile {profile} lacks"
        assert not key or key in values[section], f"{stage} names {name}, which profile {profile} lacks"


def test_only_promote_is_always_changed() -> None:
    assert [stage for stage in STAGES if STAGES[stage].get("always_changed")] == ["promote"]


def test_bytecode_is_no_dependency() -> None:
    # Python writes it beside the code that stages depend on, and a fresh clone has none: every stage would run again.
    bytecode = {"supcam/__pycache__/errors.pyc", "supcam/models/__pycache__/x.pyc", "pipelines/__pycache__/tune.pyc"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "check-ignore", *sorted(bytecode), "supcam/errors.py"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == bytecode, f"put into .dvcignore what DVC would count as code: {done.stderr}"


def test_mlflow_run_goes_through_every_stage_in_the_order_of_dvc_yaml() -> None:
    from pipelines.main import STAGES as MAIN

    assert [*MAIN, "promote"] == list(STAGES)
