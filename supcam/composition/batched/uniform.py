"""Random numbers that are a function of keys: the same in any batch, in any order and on any device."""

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), its constants as signed 64-bit integers.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def key_of(seed: int, device: torch.device) -> Tensor:
    """The key () int64 of a 64-bit seed."""
    return _mixed(torch.tensor(seed % 2**64 - 2**63, device=device) + _STEP)


def keys(key: Tensor, numbers: Tensor | int) -> Tensor:
    """A key int64 of its own for each number under ``key``; both broadcast."""
    return _mixed(key + (torch.as_tensor(numbers, device=key.device) + 1) * _STEP)


def uniforms(key: Tensor, count: int) -> Tensor:
    """``count`` uniform numbers in [0, 1) for each key (B,): (B, count) float64."""
    return _shifted(keys(key[:, None], torch.arange(count, device=key.device)), 11).double() * 2.0**-53


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    mixed: Tensor = x ^ _shifted(x, 31)
    return mixed


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    shifted: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return shifted
