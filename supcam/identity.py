"""Everything that determines a result, by name, and the key under which the result is kept."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from supcam.settings import Settings, without_effect

# Training reads `compose` only where it composes by itself; else the hash of the composed crops stands for it.
_TRAINING = ("runtime", "input", "model", "compose.on_the_fly")
CONTRASTIVE = tuple(
    f"pretrain.{name}" for name in ("loss", "margin", "margin_on", "projection", "queue_size", "temperature")
)
"""Settings of pre-training that joint training reads as well."""
READS: dict[str, tuple[str, ...]] = {
    "tune": (*_TRAINING, "pretrain", "finetune", "tune"),
    "pretrain": (*_TRAINING, "pretrain"),
    "finetune": (*_TRAINING, *CONTRASTIVE, "pretrain.epochs", "finetune"),
    "network": ("runtime", "input", "model", "compose", "pretrain", "finetune"),
    "forest": ("runtime.seed", "runtime.threads"),
}
"""Sections and settings that each kind of work reads: the stages that keep state, and the models of an experiment."""


def identity(settings: Settings, work: str, content: Mapping[str, Any]) -> dict[str, str]:
    """All that determines a result, by name, as JSON: two results are of the same work where all of it is equal.

    That is the settings which ``work``, a name of ``READS``, reads, as ``section.key``, and ``content``: hashes of
    data and code by name.
    """
    reads = READS[work]
    if "compose.on_the_fly" in reads and settings.compose.on_the_fly:
        reads = (*reads, "compose")
    values = settings.model_dump(mode="json", by_alias=True)
    found: dict[str, Any] = dict(content)
    for name in reads:
        section, _, key = name.partition(".")
        found |= {f"{section}.{each}": values[section][each] for each in ([key] if key else values[section])}
    ignored = set(without_effect())
    return {name: json.dumps(value, sort_keys=True) for name, value in found.items() if name not in ignored}


def key_of(identity: Mapping[str, str]) -> str:
    """SHA-256 of an identity, 64 hexadecimal digits; callers take as many as they need."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
