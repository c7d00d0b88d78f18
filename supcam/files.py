"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, with its suffix, that takes its place when the block ends well.

    A reader sees the old file or the new one, never a part; after an error or a full disk the old one is still there.
    The parent folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    fresh = Path(name)
    try:
        yield fresh
        with fresh.open("rb") as written:
            os.fsync(written.fileno())  # a power cut after the rename must not leave an empty file
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8 with the line ends that ``text`` has."""
    with replaced_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place when the block ends well, and vanishes when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            out.replace(old / out.name)
            fresh.replace(out)
            shutil.rmtree(old)
        else:
            fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def is_free(folder: Path) -> bool:
    """Whether a folder may be written: it does not exist yet, or is empty."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
