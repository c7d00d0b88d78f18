"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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


# Modules that train, start servers and processes, or take more than three seconds: left out of `make test-fast`.
SLOW = {
    "composition.test_dataset",
    "composition.test_realism",
    "composition.test_seams",
    "composition.test_stream",
    "data.test_differences",
    "data.test_expectations",
    "data.test_importers",
    "data.test_masks",
    "data.test_page_in_browser",
    "data.test_review",
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
    "registry.test_candidate",
    "registry.test_client",
    "registry.test_commands",
    "registry.test_explain",
    "registry.test_package",
    "registry.test_promotion",
    "registry.test_segmentation_example",
    "registry.test_servers",
    "test_cli",
    "test_documentation",
    "test_identity",
    "test_pipeline",
    "test_views",
    "tracking.test_hashes",
    "tracking.test_lost_server",
    "tracking.test_postgres_server",
    "tracking.test_project",
    "tracking.test_reproduce",
    "tracking.test_runs",
    "training.test_device",
    "training.test_fresh_bank",
    "training.test_resume",
    "training.test_sharing",
    "training.test_tasks",
    "tuning.test_objective",
    "tuning.test_study",
    "tuning.test_tracked",
    "tuning.test_workers",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if str(item.module.__name__).removeprefix("tests.") in SLOW:
            item.add_marker(pytest.mark.slow)
