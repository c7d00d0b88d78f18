"""Changing the data folder: one command at a time, the new folder beside the old, then swapped in whole."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supcam.data.manifest import MANIFEST
from supcam.data.versions import is_versioned, pointer_of, record_version
from supcam.errors import SupcamError


@contextmanager
def changing(data: Path) -> Iterator[None]:
    """Hold the right to change a data folder, and first finish or undo what a killed command left.

    The lock is of the operating system, so a command that dies gives it back. Its empty file stays: a name that is
    removed and made again would let two commands hold it.

    Raises:
        SupcamError: when another command holds it, or the version of a killed one cannot be recorded.
    """
    import fcntl

    data.parent.mkdir(parents=True, exist_ok=True)
    with data.with_name(f".{data.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SupcamError(
                f"{data} is being changed by another command. Wait until it has ended and run this one again."
            ) from None
        _recover(data)
        yield


@contextmanager
def workshop(data: Path) -> Iterator[Path]:
    """A folder beside ``data`` to build the new one in, gone at the end whatever happens."""
    folder = Path(tempfile.mkdtemp(dir=data.parent, prefix=_workshops(data)))
    try:
        built = folder / data.name
        built.mkdir()
        yield built
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_tree(old: Path, new: Path) -> None:
    """Show the files of ``old`` in ``new`` as hard links, or as copies where the file system has none."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    if old.is_dir():
        shutil.copytree(old, new, copy_function=link)


def swap_in(built: Path, data: Path) -> bool:
    """Put the new folder in place and record its version; on failure put everything back.

    Returns whether the folder has versions. Each step is one rename, so that a killed command leaves a state that
    :func:`changing` knows how to finish or undo.
    """
    previous = _previous(data)
    kept = {
        file: file.read_bytes() if file.exists() else None for file in (pointer_of(data), data.parent / ".gitignore")
    }
    if data.exists():
        data.rename(previous)
    try:
        built.rename(data)
        versioned = is_versioned(data)
        if versioned:
            record_version(data)
    except BaseException:
        if data.exists():
            data.rename(built)
        if previous.exists():
            previous.rename(data)
        for file, content in kept.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)
        raise
    if previous.exists():
        previous.rename(built)
    return versioned


def _recover(data: Path) -> None:
    """Finish a swap that was killed after the new folder came in, undo one killed before, and clear what it built."""
    previous = _previous(data)
    if previous.exists():
        if (data / MANIFEST).is_file():
            # Whole, for it came in by one rename; recording a version twice is as recording it once.
            if is_versioned(data):
                record_version(data)
            shutil.rmtree(previous)
        else:
            shutil.rmtree(data, ignore_errors=True)
            previous.rename(data)
    for folder in data.parent.glob(f"{glob.escape(_workshops(data))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _previous(data: Path) -> Path:
    return data.with_name(f".{data.name}.previous")


def _workshops(data: Path) -> str:
    return f".{data.name}.import-"
