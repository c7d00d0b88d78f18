"""What a training run keeps in its state folder: the last checkpoint and the finished result, each written whole."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supcam.errors import UsageError
from supcam.files import replaced_file

LAST, FINISHED = "last.ckpt", "finished.pt"


def save_whole(values: Mapping[str, Any], path: Path) -> None:
    """Save values so that a reader sees the old file or the new one, never a part."""
    # A stream, since torch would write the name of a temporary file into the archive.
    with replaced_file(path) as fresh, fresh.open("wb") as stream:
        torch.save(dict(values), stream)


def load_whole(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """Read what ``save_whole`` wrote and check that it belongs to this run.

    Raises:
        UsageError: for a file that is truncated or of another run, naming what differs.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        found = values["identity"]
    except (RuntimeError, EOFError, KeyError, OSError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"checkpoint {path} is truncated or not one of ours ({type(error).__name__}). "
            "Delete it to train from the start."
        ) from None
    differing = [name for name in identity if found.get(name) != identity[name]]
    if differing:
        pairs = "; ".join(f"{name}: it has {found.get(name)!r}, this run {identity[name]!r}" for name in differing)
        raise UsageError(f"checkpoint {path} belongs to another run ({pairs}). Give another state folder or delete it.")
    return dict(values)


def remove_partials(folder: Path) -> None:
    """Delete what a killed process left half-written."""
    for name in (LAST, FINISHED):
        for partial in folder.glob(f".{Path(name).stem}.*"):
            partial.unlink(missing_ok=True)


def portable_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights by name: on the CPU, in single precision, and contiguous, as safetensors takes them."""
    state = network.state_dict()
    whole = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    return {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in whole.items()}
