"""A killed run, started again, ends with the very weights of an uninterrupted one."""

import shutil
from pathlib import Path

import pytest
import torch

from supcam.errors import UsageError
from supcam.training.checkpoints import FINISHED, LAST, load_whole, save_whole
from tests.support.forked import in_process
from tests.training.small import run_and_die, run_to_the_end, small_settings, trained

STAGES = ("pretrain", "finetune")
# The default suite takes a few of the moments, the stress run all of them in both steps.
FAST = {
    ("pretrain", "step:9"),
    ("pretrain", "checkpoint write:3"),
    ("finetune", "checkpoint write:1"),
    ("finetune", "epoch end:2"),
    ("finetune", "checkpoint write:4"),
}
MOMENTS = (
    "step:2",
    "step:9",
    "epoch end:2",
    "checkpoint write:1",
    "checkpoint write:3",
    "checkpoint write:4",
    "rename:2",
    "checkpoint write:5",
)
CASES = [
    pytest.param(stage, moment, marks=() if (stage, moment) in FAST else pytest.mark.stress)
    for stage in STAGES
    for moment in MOMENTS
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for stage in STAGES:
        folder = tmp_path_factory.mktemp(stage)
        assert in_process(run_to_the_end, stage, folder / "state", folder / "weights.pt", "") == 0
        found[stage] = torch.load(folder / "weights.pt", weights_only=True)
    return found


@pytest.mark.parametrize(("stage", "moment"), CASES)
def test_a_killed_run_ends_with_the_same_weights(
    stage: str, moment: str, tmp_path: Path, uninterrupted: dict[str, dict[str, torch.Tensor]]
) -> None:
    state = tmp_path / "state"
    assert in_process(run_and_die, stage, state, moment) == -9
    assert not (state / FINISHED).exists()
    assert in_process(run_to_the_end, stage, state, tmp_path / "weights.pt", "") == 0
    weights, expected = torch.load(tmp_path / "weights.pt", weights_only=True), uninterrupted[stage]
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []
    assert not list(state.glob(".*"))  # nothing half-written is left


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The state folder of a finished pre-training of one epoch, and its weights."""
    folder = tmp_path_factory.mktemp("one epoch")
    return folder, trained("pretrain", folder, small_settings(pretrain={"epochs": 1}))


@pytest.fixture
def finished(one_epoch: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    """A copy of the folder, for one test."""
    return shutil.copytree(one_epoch[0], tmp_path / "state")


def test_a_finished_run_is_returned_at_once(one_epoch: tuple[Path, dict[str, torch.Tensor]], finished: Path) -> None:
    first = one_epoch[1]
    (finished / LAST).unlink()
    before = (finished / FINISHED).stat().st_mtime_ns
    again = trained("pretrain", finished, small_settings(pretrain={"epochs": 1}))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (finished / FINISHED).stat().st_mtime_ns == before
    assert not (finished / LAST).exists()


@pytest.mark.parametrize("name", [LAST, FINISHED])
def test_a_truncated_checkpoint_is_refused(finished: Path, name: str) -> None:
    if name == LAST:
        (finished / FINISHED).unlink()
    content = (finished / name).read_bytes()
    (finished / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=rf"{name} is truncated or not one of ours.*Delete it"):
        trained("pretrain", finished, small_settings(pretrain={"epochs": 1}))


def test_a_checkpoint_of_another_architecture_is_refused(finished: Path) -> None:
    other = small_settings(pretrain={"epochs": 1}, model={"encoder": "resnet18"})
    with pytest.raises(
        UsageError, match=r"another run \(model.encoder: it has '\"resnet10\"', this run '\"resnet18\"'"
    ):
        trained("pretrain", finished, other)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / LAST
    save_whole({"identity": {}, "state": torch.ones(2)}, path)
    with pytest.raises(Exception, match="pickle"):
        save_whole({"identity": {}, "state": lambda: None}, path)
    assert torch.equal(load_whole(path, {})["state"], torch.ones(2))
