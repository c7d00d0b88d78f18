"""What a training run keeps in its state folder: the last checkpoint and the finished result, each written whole."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from supcam.errors import UsageError

LAST, FINISHED = "last.ckpt", "finished.pt"


def save_whole(values: Mapping[str, Any], path: Path) -> None:
    """Write beside the path, flush to disk, then rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as stream:
        torch.save(dict(values), stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


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
            f"checkpoint {path} is truncated or no checkpoint of ours ({type(error).__name__}). "
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
        for partial in folder.glob(f".{name}.*"):
            partial.unlink(missing_ok=True)
