"""HTML pages that need no network and no other file, and sections in Markdown: a template for each of them."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def render(template: str, values: Mapping[str, Any]) -> str:
    """One page or section as text.

    Args:
        template: Name of a template of this folder, such as ``evaluation.html`` or ``results/folds.md``.
        values: What the template shows; every text is escaped in HTML, and stays as it is in Markdown.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("supcam.pages", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"metric": _metric, "interval": _interval}
    return environment.get_template(template).render(**values)


def data_uri(png: bytes) -> str:
    """Bytes of a PNG as the source of an ``img`` element."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def thumbnail(image: NDArray[np.uint8], side: int) -> str:
    """A grey picture (H, W), shrunk to at most ``side`` pixels, as the source of an ``img`` element."""
    from PIL import Image

    tile = Image.fromarray(image)
    tile.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    tile.save(buffer, "PNG")
    return data_uri(buffer.getvalue())


def _metric(value: float | None) -> str:
    """A metric with four digits."""
    return "not defined" if value is None else f"{value:.4f}"


def _interval(values: Mapping[str, Any], name: str) -> str:
    """The confidence interval of a metric from its ``NAME_low`` and ``NAME_high``; empty without one."""
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.4f} - {high:.4f}"
