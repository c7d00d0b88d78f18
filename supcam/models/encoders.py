"""Backbones from torchvision by name, with one-channel input and without their classification layer."""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from supcam.models import torchvision_cpu  # noqa: F401  (first: torchvision needs it to import)

import torchvision.models as zoo  # isort: skip
from torchvision.models.convnext import LayerNorm2d  # isort: skip
from torchvision.models.resnet import BasicBlock, ResNet  # isort: skip

from supcam.settings import TORCHVISION_WIDTH, ModelSettings

GROUPS = 16
Module = TypeVar("Module", bound=nn.Module)


class Encoder(nn.Module):
    """A backbone that maps crops to one feature vector each.

    Attributes:
        num_features: Length F of the feature vector.

    Shape:
        - input: (B, 1, S, S) float, 0 background to 1 dark.
        - output: (B, F).
    """

    def __init__(self, backbone: nn.Module, num_features: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = num_features

    def forward(self, crops: Tensor) -> Tensor:
        """Features (B, F) of crops (B, 1, S, S)."""
        features: Tensor = self.backbone(crops)
        return features


class AverageMaxPool(nn.Module):
    """Means of the channels followed by their maxima: a contact is a few places of the grid, lost in a mean.

    Shape:
        - input: (B, C, H, W).
        - output: (B, 2 C, 1, 1).
    """

    def forward(self, grid: Tensor) -> Tensor:
        """Pooled (B, 2 C, 1, 1) grid (B, C, H, W)."""
        return torch.cat([grid.mean(dim=(2, 3), keepdim=True), grid.amax(dim=(2, 3), keepdim=True)], dim=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 16 groups, or with as many as divide the channels."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def build_encoder(settings: ModelSettings) -> Encoder:
    """Make the encoder that the settings name, with random weights from torch's global generator.

    ``norm: group`` replaces batch normalisation, so that no crop's features depend on its batch; convnext and swin
    have layer normalisation, which already is so, and stay as they are.
    """
    name, both = settings.encoder, settings.pooling == "average_max"
    if name.startswith("res"):
        return _residual(name, settings.width, group_norm if settings.norm == "group" else None, both)
    network = getattr(zoo, name)()
    network.features[0][0] = _one_channel(network.features[0][0])
    if name == "swin_t":
        features, network.head = network.head.in_features, nn.Identity()
        return _pooled(network, features, both)
    features, network.classifier[2] = network.classifier[2].in_features, nn.Identity()
    if both:  # convnext normalises what it pooled
        network.classifier[0] = LayerNorm2d(2 * features, eps=network.classifier[0].eps)
    return _pooled(network, features, both)


def channels_last(module: Module) -> Module:
    """Lay a module's four-dimensional weights out channels last, which convolutions on CPU and GPU like best."""
    return cast("Module", module.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def _residual(name: str, width: int, norm: Callable[[int], nn.Module] | None, both: bool) -> Encoder:
    make = partial(ResNet, BasicBlock, [1, 1, 1, 1]) if name == "resnet10" else getattr(zoo, name)
    network = make(norm_layer=norm)
    network.conv1 = _one_channel(network.conv1)
    features = network.fc.in_features
    if width != TORCHVISION_WIDTH:
        _set_width(network, width)
        features = features * width // TORCHVISION_WIDTH
    network.fc = nn.Identity()
    return _pooled(network, features, both)


def _pooled(network: nn.Module, features: int, both: bool) -> Encoder:
    """The encoder of a network that pools its last grid to means, or with ``both`` to means and maxima."""
    if both:
        network.avgpool = AverageMaxPool()
    return Encoder(network, 2 * features if both else features)


def _set_width(network: ResNet, width: int) -> None:
    """Give a network of basic blocks another width, with random weights as torchvision initialises them."""
    network.inplanes = width
    network.conv1 = nn.Conv2d(1, width, kernel_size=7, stride=2, padding=3, bias=False)
    network.bn1 = network._norm_layer(width)
    for number in range(4):
        name, stride = f"layer{number + 1}", 1 if number == 0 else 2
        blocks = len(getattr(network, name))
        setattr(network, name, network._make_layer(BasicBlock, width * 2**number, blocks, stride=stride))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _one_channel(layer: nn.Conv2d) -> nn.Conv2d:
    """The same convolution for one grey channel; the weights are the sum over colours, which keeps their scale."""
    grey = nn.Conv2d(1, layer.out_channels, 1, bias=layer.bias is not None)
    grey.kernel_size, grey.stride, grey.padding = layer.kernel_size, layer.stride, layer.padding
    grey.weight = nn.Parameter(layer.weight.detach().sum(dim=1, keepdim=True))
    if layer.bias is not None:
        grey.bias = nn.Parameter(layer.bias.detach().clone())
    return grey
