"""Backbones by name, and torchvision beside a torch without its operators."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from supcam.errors import UsageError
from supcam.models.encoders import build_encoder
from supcam.settings import ModelSettings, parse_settings

WIDTHS = {
    "resnet10": 512,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnext50_32x4d": 2048,
    "resnext101_32x8d": 2048,
    "convnext_tiny": 768,
    "swin_t": 768,
}


@pytest.mark.parametrize("name", WIDTHS)
def test_every_encoder_takes_one_channel_and_gives_its_features(name: str) -> None:
    encoder = build_encoder(ModelSettings(encoder=name)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        features = encoder(torch.rand(2, 1, 64, 64))
    assert encoder.num_features == WIDTHS[name]
    assert features.shape == (2, WIDTHS[name])
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("name", WIDTHS)
def test_group_normalisation_leaves_no_batch_statistics(name: str) -> None:
    encoder = build_encoder(ModelSettings(encoder=name, norm="group"))  # type: ignore[arg-type]
    assert not [layer for layer in encoder.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def test_an_unknown_encoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"model.encoder = 'vgg16' is not allowed.*resnet18"):
        parse_settings({"model": {"encoder": "vgg16"}})


def test_torchvision_and_lightning_import_in_a_fresh_interpreter() -> None:
    code = "import supcam.models.torchvision_cpu, torchvision.models, lightning; print(torchvision.models.resnet18)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_where_the_library_loads(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from supcam.models import torchvision_cpu

    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    assert torchvision_cpu.declare_operators() is None


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet34"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_narrow_encoder_has_the_same_layers_with_fewer_channels(name: str, norm: str) -> None:
    narrow, full = (build_encoder(ModelSettings(encoder=name, width=width, norm=norm)) for width in (32, 64))  # type: ignore[arg-type]
    assert narrow.num_features == 256
    assert narrow.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 256)
    assert list(narrow.state_dict()) == list(full.state_dict())
    ours, theirs = (sum(weights.numel() for weights in encoder.parameters()) for encoder in (narrow, full))
    assert 3.8 < theirs / ours < 4.1


def test_a_narrow_encoder_starts_like_torchvisions() -> None:
    torch.manual_seed(0)
    narrow = dict(build_encoder(ModelSettings(encoder="resnet18", width=32)).named_parameters())
    full = dict(build_encoder(ModelSettings(encoder="resnet18")).named_parameters())
    for name in ("backbone.layer2.0.conv1.weight", "backbone.layer4.1.conv2.weight"):
        # He initialisation: variance 2 / (outputs * 9), so half the channels give twice the variance.
        assert float((narrow[name].var() / full[name].var()).detach()) == pytest.approx(2.0, rel=0.1)


def test_a_width_that_an_encoder_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"width other than 64 needs the encoder resnet10, resnet18 or resnet34"):
        parse_settings({"model": {"encoder": "resnet50", "width": 32}})


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_means_and_maxima_of_the_last_grid(name: str) -> None:
    encoder = build_encoder(ModelSettings(encoder=name, width=16, pooling="average_max")).eval()  # type: ignore[arg-type]
    grids: list[torch.Tensor] = []
    encoder.backbone.layer4.register_forward_hook(lambda *values: grids.append(values[2]))  # type: ignore[union-attr]
    found = encoder(torch.rand(2, 1, 96, 96))
    assert encoder.num_features == 256
    assert grids[0].shape == (2, 128, 3, 3)
    torch.testing.assert_close(found, torch.cat([grids[0].mean((2, 3)), grids[0].amax((2, 3))], dim=1))


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_other_networks_pool_means_and_maxima_too(name: str) -> None:
    encoder = build_encoder(ModelSettings(encoder=name, pooling="average_max")).eval()  # type: ignore[arg-type]
    pooled: list[torch.Tensor] = []
    encoder.backbone.avgpool.register_forward_hook(lambda *values: pooled.extend((values[1][0], values[2])))  # type: ignore[union-attr]
    with torch.no_grad():
        found = encoder(torch.rand(2, 1, 96, 96))
    grid, both = pooled
    assert grid.shape == (2, WIDTHS[name], 3, 3)
    torch.testing.assert_close(both[:, :, 0, 0], torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], dim=1))
    assert encoder.num_features == 2 * WIDTHS[name]
    assert found.shape == (2, encoder.num_features)
    assert torch.isfinite(found).all()
