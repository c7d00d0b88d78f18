"""Lets torchvision import beside a torch build without its compiled operators.

Import this module before anything that imports torchvision (lightning and torchmetrics do). Where torchvision's
own library loads, nothing is declared.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _library_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to repair: the import itself will say that torchvision is missing
    for path in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            continue
        return True
    return False


def declare_operators() -> torch.library.Library | None:
    """Declare the two detection operators that torchvision registers fakes for, unless they exist.

    Returns:
        The library to keep alive, or None where torchvision loads by itself.
    """
    if _library_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    return library


# Operators vanish with their library object, so the module holds it.
LIBRARY = declare_operators()
