"""The key encoder: its average, its schedule, and that a key depends on its own crop alone."""

import copy

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


def test_running_statistics_are_those_of_the_batches_before(online: ContrastiveNetwork) -> None:
    keys = MomentumEncoder(online)
    layer, batches = keys.network.encoder.backbone.bn1, [torch.rand(8, 1, 32, 32) + shift for shift in (0.0, 3.0)]
    with torch.no_grad():
        inputs = [keys.network.encoder.backbone.conv1(batch).transpose(0, 1).flatten(1) for batch in batches]
    keys.calibrate(batches[0])
    torch.testing.assert_close(layer.running_mean, inputs[0].mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var, inputs[0].var(dim=1), rtol=1e-4, atol=1e-5)
    keys(batches[1])
    mixed = 0.9 * inputs[0].mean(dim=1) + 0.1 * inputs[1].mean(dim=1)
    torch.testing.assert_close(layer.running_mean, mixed, rtol=1e-4, atol=1e-5)
    before = layer.running_mean.clone()
    keys.eval()(batches[0])
    assert torch.equal(layer.running_mean, before)


def test_no_gradient_reaches_the_keys(online: ContrastiveNetwork) -> None:
    keys = MomentumEncoder(online)
    assert not keys(torch.rand(4, 1, 32, 32)).requires_grad
    assert not any(weight.requires_grad for weight in keys.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_key_is_the_same_whatever_its_batch(norm: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(encoder="resnet10", norm=norm))  # type: ignore[arg-type]
    keys = MomentumEncoder(ContrastiveNetwork(encoder, 16, batch_norm=norm == "batch").double())
    keys.train()
    crops, order = torch.rand(12, 1, 32, 32, dtype=torch.float64), torch.randperm(12)
    for _ in range(3):
        keys(torch.rand(12, 1, 32, 32, dtype=torch.float64))
    state = copy.deepcopy(keys.state_dict())

    def fresh(batch: torch.Tensor) -> torch.Tensor:
        keys.load_state_dict(state)
        return keys(batch)

    together = fresh(crops)
    torch.testing.assert_close(fresh(crops[order]), together[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.cat([fresh(crop[None]) for crop in crops]), together, rtol=1e-10, atol=1e-10)


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


def test_momentum_stays_between_start_and_end_outside_the_run_and_in_a_short_one() -> None:
    assert momentum_at(-1, 10, 0.9, 0.99) == pytest.approx(0.9)
    assert momentum_at(10, 10, 0.9, 0.99) == pytest.approx(0.99)
    assert [momentum_at(step, 2, 0.9, 0.99) for step in range(2)] == pytest.approx([0.9, 0.99])
    assert momentum_at(0, 1, 0.9, 0.99) == 0.99


def test_a_single_value_changes_no_statistic_and_two_do() -> None:
    """A single value has no variance: taking it up would make every later key NaN."""
    keys = MomentumEncoder(torch.nn.BatchNorm2d(3)).train()
    keys(torch.rand(1, 3, 1, 1) + 5.0)
    assert keys.network.running_mean.tolist() == [0.0] * 3
    keys(torch.rand(2, 3, 1, 1) + 5.0)
    assert (keys.network.running_mean > 0.0).all()
    assert torch.isfinite(keys.network.running_var).all()


def test_variances_follow_the_batches_as_means_do() -> None:
    keys = MomentumEncoder(torch.nn.BatchNorm2d(3)).train()
    crops = 3.0 * torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    keys(crops)
    torch.testing.assert_close(keys.network.running_var, 0.9 + 0.1 * crops.var(dim=(0, 2, 3)), rtol=1e-5, atol=1e-5)


def test_a_second_calibration_forgets_the_first_and_leaves_the_rate_of_the_layer() -> None:
    keys = MomentumEncoder(torch.nn.BatchNorm2d(3, momentum=0.3))
    first, second = torch.rand(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    keys.calibrate(first + 5.0)
    keys.calibrate(second)
    torch.testing.assert_close(keys.network.running_mean, second.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-5)
    assert keys.network.momentum == 0.3
