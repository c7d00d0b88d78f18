"""Fixtures shared by all tests, their order, and how many threads and examples they take."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# `make test` runs two processes on two cores: more threads in each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests whose examples are slow take a part of the number that is set: 100, and in `make stress` this one.
settings.register_profile("stress", max_examples=1000, deadline=None)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real crops kept beside a checkout; they never are part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real crops are not beside this checkout: {folder} does not exist")
    return folder


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the supcam command in this process."""
    from supcam.cli import main

    def command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["supcam", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code or 0
        assert isinstance(code, int)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return command


# Modules that train, start servers and processes, or take more than three seconds: left out of `make test-fast`.
SLOW = {
    "composition.test_dataset",
    "composition.test_realism",
    "composition.test_seams",
    "composition.test_stream",
    "data.test_differences",
    "data.test_expectations",
    "data.test_fingerprints",
    "data.test_importers",
    "data.test_killed_imports",
    "data.test_masks",
    "data.test_page_in_browser",
    "data.test_splits",
    "evaluation.test_intervals",
    "evaluation.test_out_of_fold",
    "evaluation.test_page",
    "evaluation.test_report",
    "experiments.test_chrcluster",
    "experiments.test_jobs",
    "experiments.test_pipeline",
    "experiments.test_runner",
    "experiments.test_shapes",
    "metaphase.test_folder",
    "metaphase.test_pictures",
    "metaphase.test_segmentation",
    "model.test_checks",
    "model.test_evaluate_command",
    "models.test_classifier",
    "models.test_encoders",
    "registry.test_attacks",
    "registry.test_candidate",
    "registry.test_client",
    "registry.test_commands",
    "registry.test_comparison",
    "registry.test_description",
    "registry.test_explain",
    "registry.test_folds",
    "registry.test_gate",
    "registry.test_notify",
    "registry.test_package",
    "registry.test_promotion",
    "registry.test_read_only",
    "registry.test_segmentation_example",
    "registry.test_servers",
    "registry.test_states",
    "registry.test_ui",
    "test_cli",
    "test_identity",
    "test_pipeline",
    "test_synthetic",
    "test_views",
    "tracking.test_hashes",
    "tracking.test_lost_server",
    "tracking.test_postgres_server",
    "tracking.test_project",
    "tracking.test_reproduce",
    "tracking.test_runs",
    "training.test_device",
    "training.test_fresh_bank",
    "training.test_gpu_script",
    "training.test_resume",
    "training.test_sharing",
    "training.test_tasks",
    "tuning.test_objective",
    "tuning.test_study",
    "tuning.test_tracked",
    "tuning.test_workers",
}


# The longest modules, first to start: else one process works on its last one while the other has nothing left.
FIRST = ("test_pipeline", "tuning.test_workers", "registry.test_promotion", "data.test_importers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def module(item: pytest.Item) -> str:
        return str(item.module.__name__).removeprefix("tests.")  # type: ignore[attr-defined]

    for item in items:
        if module(item) in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: FIRST.index(module(item)) if module(item) in FIRST else len(FIRST))
