"""The house keeps its shape: the exact top level, and imports that run only downward."""

import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.imports import ROOT, direct_imports, module_name

# Lower number, lower floor; a module imports from lower floors and from its own package.
FLOORS = {
    "supcam": 0,
    "supcam.cluster_type": 1,
    "supcam.errors": 1,
    "supcam.identity": 1,
    "supcam.files": 1,
    "supcam.pages": 1,
    "supcam.processes": 1,
    "supcam.progress": 1,
    "supcam.settings": 1,
    "supcam.workers": 1,
    "supcam.tracking": 1,
    "supcam.serving": 1.5,
    "supcam.data": 2,
    "supcam.stages": 2.5,
    "supcam.composition": 3,
    "supcam.views": 3,
    "supcam.resaving": 3,
    "supcam.synthetic": 3.5,
    "supcam.losses": 4,
    "supcam.models": 4,
    "supcam.training": 5,
    "supcam.evaluation": 5.5,
    "supcam.tuning": 6,
    "supcam.registry": 6,
    "supcam.metaphase": 6.3,
    "supcam.review": 6.5,
    "supcam.monitoring": 6.5,
    "supcam.experiments": 6.5,
    "supcam.checks": 6.5,
    "supcam.cli": 7,
    "pipelines": 8,
}
FIRST_FLOOR = {name for name, floor in FLOORS.items() if floor == 1}
# `supcam/__init__` resolves its names lazily, the only imports that point upward.
LAZY = {("supcam", "supcam.registry"), ("supcam", "supcam.metaphase")}

TOP_LEVEL = {
    ".ci", ".dvc", ".dvcignore", ".gitattributes", ".github", ".gitignore", ".pre-commit-config.yaml",
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MLproject", "mkdocs.yml",
    "Makefile", "README.md", "benchmarks", "data.dvc", "docs", "dvc.lock", "dvc.yaml", "examples", "outputs",
    "params.yaml", "pipelines", "pyproject.toml", "python_env.yaml", "requirements.lock", "supcam", "tests",
}  # fmt: skip


def floor_of(module: str) -> str:
    """The part of the house a module belongs to, for example supcam.data."""
    return "pipelines" if module.startswith("pipelines") else ".".join(module.split(".")[:2])


SOURCES = sorted([*(ROOT / "supcam").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_only_downward(source: Path) -> None:
    here = floor_of(module_name(source))
    assert here in FLOORS, f"{here} stands on no floor; add it to FLOORS and to docs"
    for name in direct_imports(source):
        there = floor_of(name)
        if there in (here, "supcam") or (here, there) in LAZY or {here, there} <= FIRST_FLOOR:
            continue
        assert FLOORS[there] < FLOORS[here], f"{module_name(source)} imports {name}, which is not below it"


def test_top_level_is_exactly_the_design() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split("/")[0] for line in tracked.stdout.splitlines()} == TOP_LEVEL


@pytest.mark.parametrize("module", ["supcam", "supcam.cluster_type", "supcam.registry.client", "supcam.cli"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = "torch lightning torchvision torchmetrics great_expectations optuna dvc mlflow matplotlib scipy sklearn"
    code = f"import sys, {module}; print(*[name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_the_store_in_git_holds_the_embedded_crops_alone() -> None:
    """`dvc push` without a remote of one's own fills it with the outputs of all stages, and git keeps them for good."""
    store = ROOT / ".dvc/sample-store/files/md5"
    listed = subprocess.run(["git", "ls-files", str(store)], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {"".join(Path(name).parts[-2:]) for name in listed.stdout.splitlines()}
    (folder,) = (name for name in tracked if name.endswith(".dir"))
    entries = json.loads((store / folder[:2] / folder[2:]).read_text(encoding="utf-8"))
    assert tracked == {folder, *(entry["md5"] for entry in entries)}


def test_no_circle_of_imports() -> None:
    graph = {module_name(source): direct_imports(source) - {"supcam"} for source in SOURCES}
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    try:
        TopologicalSorter({name: imports - packages for name, imports in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' -> '.join(error.args[1])}")
