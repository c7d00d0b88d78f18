"""Pictures of crops inside pages that need no other file."""

from pathlib import Path

from supcam.pages import thumbnail
from supcam.serving.images import ImageError, decode_crop


def picture(root: Path, path: str, side: int) -> str:
    """A crop, at most ``side`` pixels wide and high, as the source of an ``img`` element; empty if unreadable."""
    if not path or ".." in Path(path).parts or Path(path).is_absolute():  # a manifest edited by hand may say anything
        return ""
    try:
        return thumbnail(decode_crop(root / path), side)
    except ImageError:
        return ""
