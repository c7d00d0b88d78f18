"""Pictures of crops inside pages that need no other file."""

import base64
import io
from pathlib import Path

from PIL import Image

from supcam.serving.images import ImageError, decode_crop


def picture(root: Path, path: str, side: int) -> str:
    """A crop as an ``img`` element that carries its own bytes, ``side`` pixels at most; words if unreadable."""
    if not path or ".." in Path(path).parts or Path(path).is_absolute():
        return ""
    try:
        image = Image.fromarray(decode_crop(root / path))
    except ImageError:
        return "<span class=none>cannot be read</span>"
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
