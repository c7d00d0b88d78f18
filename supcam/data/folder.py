"""Changing the data folder: one command at a time, the new folder beside the old, then swapped in whole."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from supcam.data.manifest import MANIFEST
from supcam.data.versions import is_versioned, pointer_of, record_version
from supcam.errors import SupcamError


@contextmanager
def changing(data: Path) -> Iterator[None]:
    """Hold the right to change a data folder, and first finish or undo what a killed command left.

    The lock is the operating system's, so a command that dies gives it back; its empty file stays.

    Raises:
        SupcamError: when another command holds it, or the version of a killed one cannot be recorded.
    """
    data.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(data.with_name(f".{data.name}.lock")).acquire(timeout=0)
    except Timeout:
        wait = "Wait until it has ended and run this one again."
        raise SupcamError(f"{data} is being changed by another command. {wait}") from None
    with lock:
        _recover(data)
        yield


@contextmanager
def build_folder(data: Path) -> Iterator[Path]:
    """An empty folder beside ``data`` to build the new one in; what is still in it at the end is removed."""
    folder = Path(tempfile.mkdtemp(dir=data.parent, prefix=_build_prefix(data)))
    try:
        built = folder / data.name
        built.mkdir()  # below a folder of mkdtemp, which nobody else may read: data/ gets the usual mode
        yield built
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_tree(old: Path, new: Path) -> None:
    """Show the files of ``old`` in ``new`` as hard links, or as copies where the file system has none.

    A linked file must be replaced, never written to: its bytes are those of ``old`` too.
    """

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    if old.is_dir():
        shutil.copytree(old, new, copy_function=link, dirs_exist_ok=True)


def swap_in(built: Path, data: Path) -> bool:
    """Put the new folder in place and record its version; on failure put everything back.

    Returns whether the folder has versions. A folder cannot replace another in one step, so the old one steps aside.
    Each step is one rename: a killed command leaves a state that :func:`changing` knows how to finish or undo.

    Raises:
        SupcamError: when the version cannot be recorded.
    """
    previous = _previous(data)
    # The two files that recording a version writes.
    recorded = (pointer_of(data), data.parent / ".gitignore")
    kept = {file: file.read_bytes() for file in recorded if file.exists()}
    if data.exists():
        data.rename(previous)
    try:
        built.rename(data)
        versioned = is_versioned(data)
        if versioned:
            record_version(data)
    except BaseException:  # also Ctrl-C: the user's data must not stay aside
        if data.exists():
            data.rename(built)
        if previous.exists():
            previous.rename(data)
        for file in recorded:
            if file in kept:
                file.write_bytes(kept[file])
            else:
                file.unlink(missing_ok=True)
        raise
    if previous.exists():
        previous.rename(built)  # removed with the build folder
    return versioned


def _recover(data: Path) -> None:
    """Finish a swap that was killed after the new folder came in, undo one killed before, and clear what it built."""
    previous = _previous(data)
    if previous.exists():
        if (data / MANIFEST).is_file():
            # Whole, since it came in by one rename. Recording a version twice does no harm.
            if is_versioned(data):
                record_version(data)
            shutil.rmtree(previous)
        else:
            shutil.rmtree(data, ignore_errors=True)
            previous.rename(data)
    for folder in data.parent.glob(f"{glob.escape(_build_prefix(data))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _previous(data: Path) -> Path:
    return data.with_name(f".{data.name}.previous")


def _build_prefix(data: Path) -> str:
    return f".{data.name}.import-"
