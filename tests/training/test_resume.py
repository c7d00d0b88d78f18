"""A killed run, started again, ends with the very weights of an uninterrupted one."""

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


def test_a_finished_run_is_returned_at_once(tmp_path: Path) -> None:
    settings = small_settings(pretrain={"epochs": 1})
    first = trained("pretrain", tmp_path, settings)
    (tmp_path / LAST).unlink()
    before = (tmp_path / FINISHED).stat().st_mtime_ns
    again = trained("pretrain", tmp_path, settings)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (tmp_path / FINISHED).stat().st_mtime_ns == before
    assert not (tmp_path / LAST).exists()


@pytest.mark.parametrize("name", [LAST, FINISHED])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    settings = small_settings(pretrain={"epochs": 1})
    trained("pretrain", tmp_path, settings)
    if name == LAST:
        (tmp_path / FINISHED).unlink()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=rf"{name} is truncated or not one of ours.*Delete it"):
        trained("pretrain", tmp_path, settings)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    trained("pretrain", tmp_path, small_settings(pretrain={"epochs": 1}))
    other = small_settings(pretrain={"epochs": 1}, model={"encoder": "resnet18"})
    with pytest.raises(
        UsageError, match=r"another run \(model.encoder: it has '\"resnet10\"', this run '\"resnet18\"'"
    ):
        trained("pretrain", tmp_path, other)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / LAST
    save_whole({"identity": {}, "state": torch.ones(2)}, path)
    with pytest.raises(Exception, match="pickle"):
        save_whole({"identity": {}, "state": lambda: None}, path)
    assert torch.equal(load_whole(path, {})["state"], torch.ones(2))
