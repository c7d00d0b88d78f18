"""The key encoder: its average, its schedule, and that a key depends on its own crop alone."""

import pytest
import torch

from supcam.models.contrastive import ContrastiveNetwork
from supcam.models.encoders import build_encoder
from supcam.models.momentum import MomentumEncoder, momentum_at
from supcam.settings import ModelSettings


@pytest.fixture
def online() -> ContrastiveNetwork:
    torch.manual_seed(0)
    return ContrastiveNetwork(build_encoder(ModelSettings(encoder="resnet10")), 16)


def test_weights_follow_the_average_of_a_loop(online: ContrastiveNetwork) -> None:
    keys = MomentumEncoder(online)
    expected = {name: value.clone() for name, value in keys.network.named_parameters()}
    for momentum in (0.9, 0.5, 0.99):
        with torch.no_grad():
            for weight in online.parameters():
                weight.add_(torch.randn_like(weight))
        keys.update(online, momentum)
        for name, weight in online.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * weight.detach()
    for name, value in keys.network.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


def test_running_statistics_follow_and_counters_are_copied(online: ContrastiveNetwork) -> None:
    keys = MomentumEncoder(online)
    online.train()
    for _ in range(30):
        online(torch.rand(8, 1, 32, 32) + 3.0)
        keys.update(online, 0.99)
    theirs, mine = dict(online.named_buffers()), dict(keys.network.named_buffers())
    name = "encoder.backbone.bn1.running_mean"
    assert (mine[name] - theirs[name]).norm() < 0.5 * theirs[name].norm()
    assert int(mine["encoder.backbone.bn1.num_batches_tracked"]) == 30


def test_no_gradient_reaches_the_keys(online: ContrastiveNetwork) -> None:
    keys = MomentumEncoder(online)
    assert not keys(torch.rand(4, 1, 32, 32)).requires_grad
    assert not any(weight.requires_grad for weight in keys.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_key_is_the_same_whatever_its_batch(norm: str) -> None:
    torch.manual_seed(0)
    keys = MomentumEncoder(ContrastiveNetwork(build_encoder(ModelSettings(encoder="resnet10", norm=norm)), 16).double())
    keys.train()
    crops, order = torch.rand(12, 1, 32, 32, dtype=torch.float64), torch.randperm(12)
    together = keys(crops)
    torch.testing.assert_close(keys(crops[order]), together[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([keys(crop[None]) for crop in crops]), together, rtol=1e-12, atol=1e-12)


def test_the_query_encoder_would_leak_without_it(online: ContrastiveNetwork) -> None:
    """In training mode a batch-normalised encoder's output does depend on the batch: what the test above rules out."""
    online.train()
    crops = torch.rand(12, 1, 32, 32)
    assert not torch.allclose(online(crops)[:6], online(crops[:6]), atol=1e-3)


def test_momentum_rises_from_start_to_end_by_a_half_cosine() -> None:
    values = [momentum_at(step, 101, 0.99, 0.999) for step in range(101)]
    assert values[0] == pytest.approx(0.99)
    assert values[50] == pytest.approx(0.9945)
    assert values[100] == pytest.approx(0.999)
    assert values == sorted(values)
