"""Cross-entropy and the contrastive loss together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from supcam.settings import PretrainSettings
from supcam.training.finetuning import FinetuneTask, finetune
from supcam.training.joint import JointContrast
from tests.training.small import small_crops, small_settings

VALIDATION = small_crops(per_type=3, seed=9)


@pytest.fixture
def joint() -> JointContrast:
    torch.manual_seed(3)
    chosen = PretrainSettings(batch_size=2, queue_size=5, projection=6, temperature=0.3, margin=0.4)
    return JointContrast(8, chosen, batch_norm=False).double()


def expected(joint: JointContrast, query: Tensor, key: Tensor, labels: Tensor, keys: list[tuple[Tensor, int]]) -> float:
    """The loss, slot by slot, by the formula of the unified loss with the margin on the own key."""
    rows = []
    for row, label in enumerate(labels.tolist()):
        angle = torch.arccos(query[row] @ key[row]) + joint.loss.margin
        positives, negatives = [torch.cos(angle)], []
        for other, code in keys:
            (positives if code == label else negatives).append(cosine_similarity(query[row], other, dim=0))
        scaled = [torch.stack(part) / joint.loss.temperature for part in (positives, negatives)]
        rows.append(torch.log1p((-scaled[0]).exp().sum() * scaled[1].exp().sum()))
    return torch.stack(rows).mean().item()


@pytest.mark.parametrize("held", [0, 3, 7])
def test_prototypes_are_keys_of_their_types_beside_the_queue(joint: JointContrast, held: int) -> None:
    features = torch.randn(4, 8, dtype=torch.float64)
    key_features = features + 0.1 * torch.randn_like(features)
    labels = torch.tensor([0, 3, 3, 1])
    earlier = torch.nn.functional.normalize(torch.randn(held, 6, dtype=torch.float64), dim=1)
    earlier_labels = torch.arange(held) % 4
    joint.queue.enqueue(earlier, earlier_labels)
    loss, key = joint(features, key_features, labels)
    assert torch.equal(key, joint.head(key_features))
    kept = [
        *zip(earlier[-5:], earlier_labels[-5:].tolist(), strict=True),
        *zip(joint.prototypes, range(4), strict=True),
    ]
    assert loss.item() == pytest.approx(expected(joint, joint.head(features), key, labels, kept), abs=1e-9)


def test_gradients_reach_features_head_and_prototypes_but_no_key(joint: JointContrast) -> None:
    features = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    key_features = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    joint(features, key_features, torch.tensor([0, 3, 3, 1]))[0].backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert key_features.grad is None
    assert joint.prototypes.grad is not None and (joint.prototypes.grad.abs().sum(dim=1) > 0).all()
    assert all(weight.grad is not None for weight in joint.head.parameters())


def test_joint_training_ends_with_the_composites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    original = FinetuneTask.finish_epoch

    def keep(task: FinetuneTask, row: dict[str, float]) -> None:
        assert task.joint is not None
        queue = task.joint.queue
        seen.append({"prototypes": task.joint.prototypes.detach().clone(), "keys": queue.keys.clone()})
        original(task, row)

    monkeypatch.setattr(FinetuneTask, "finish_epoch", keep)
    settings = small_settings(finetune={"epochs": 2, "real_epochs": 1, "contrastive_weight": 0.5})
    history = finetune(small_crops(composed=4), VALIDATION, settings, None, state_dir=tmp_path).history
    assert history["contrastive_loss"].notna().tolist() == [True, True, False]
    first, second, real = seen
    assert not torch.equal(first["prototypes"], second["prototypes"])
    assert torch.equal(second["prototypes"], real["prototypes"])
    assert torch.equal(second["keys"], real["keys"])
    assert first["keys"].norm(dim=1).tolist() == pytest.approx([1.0] * 24, abs=1e-6)


def test_queue_and_loss_stay_exact_in_mixed_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queues: list[Tensor] = []
    original = FinetuneTask.finish_epoch

    def keep(task: FinetuneTask, row: dict[str, float]) -> None:
        assert task.joint is not None
        queues.append(task.joint.queue.keys.clone())
        original(task, row)

    monkeypatch.setattr(FinetuneTask, "finish_epoch", keep)
    settings = small_settings(
        runtime={"precision": "bf16-mixed"},
        finetune={"epochs": 2, "real_epochs": 0, "contrastive_weight": 0.5},
    )
    history = finetune(small_crops(), VALIDATION, settings, None, state_dir=tmp_path).history
    assert history["contrastive_loss"].between(0, 100).all()
    assert queues[-1].dtype == torch.float32
    torch.testing.assert_close(queues[-1].norm(dim=1), torch.ones(24), rtol=0, atol=1e-5)


def test_a_weight_near_0_trains_as_cross_entropy_alone(tmp_path: Path) -> None:
    found = {}
    for weight in (0.0, 1e-12, 0.5):
        settings = small_settings(finetune={"epochs": 2, "real_epochs": 0, "contrastive_weight": weight})
        found[weight] = finetune(small_crops(), VALIDATION, settings, None, state_dir=tmp_path / f"{weight}")
    assert "contrastive_loss" not in found[0.0].history
    for name, plain in found[0.0].model_state.items():
        torch.testing.assert_close(found[1e-12].model_state[name], plain, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[0.5].model_state["head.weight"], found[0.0].model_state["head.weight"])
