"""Changing the data folder: one command at a time, the new folder beside the old, then swapped in whole."""

import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from supcam.data.manifest import MANIFEST, read_manifest
from supcam.data.versions import is_versioned, pointer_of, record_version
from supcam.errors import SupcamError, UsageError
from supcam.files import replaced_file

# Of a swap: the folder that was there before, a mark that there was none, and the pointer of that time.
_BEFORE, _NOTHING, _POINTER = "before", "nothing before", "pointer"
_DVC_COPY = re.compile(r"\.[A-Za-z0-9_-]{22}\.tmp")


def replaceable(data: Path) -> Path:
    """The absolute path of a data folder that its new version can replace.

    Raises:
        UsageError: for a mount point, or a link in a DVC project.
    """
    if data.is_symlink() and is_versioned(data):
        raise UsageError(f"{data} is a symbolic link, whose target DVC does not version. Move the folder itself there.")
    if os.path.ismount(data):
        raise UsageError(
            f"{data} is a mount point, which no new version can replace. Mount the folder above it instead."
        )
    return data.resolve()


@contextmanager
def changing(data: Path) -> Iterator[None]:
    """Hold the right to change a data folder, and first finish or undo what a killed command left.

    The lock is the operating system's, so a command that dies gives it back; its empty file stays.

    Raises:
        UsageError: for a folder that holds other things than crops.
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
        if data.is_dir() and not ((data / MANIFEST).exists() or pointer_of(data).exists()) and any(data.iterdir()):
            raise UsageError(
                f"{data} holds files but no {MANIFEST}: it is not a data folder, and an import would replace it. "
                "Name a new folder with --into, or empty this one."
            )
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

    Returns whether the folder has versions. A folder cannot replace another in one step, so the old one steps aside,
    into ``.data.swap``, which also holds a copy of the ``.dvc`` file. Each step is one rename: a killed command leaves
    a state that :func:`changing` knows how to finish or undo.

    Raises:
        SupcamError: when the version cannot be recorded.
    """
    ignore = data.parent / ".gitignore"  # dvc add writes a line into it
    ignored = ignore.read_bytes() if ignore.exists() else None
    staged = built.with_name(f"{built.name}.swap")
    staged.mkdir()
    if pointer_of(data).exists():
        shutil.copy2(pointer_of(data), staged / _POINTER)
    if not data.exists():
        (staged / _NOTHING).touch()
    staged.rename(_swap(data))
    try:
        if data.exists():
            data.rename(_swap(data) / _BEFORE)
        built.rename(data)
        versioned = is_versioned(data)
        if versioned:
            record_version(data)
    except BaseException:  # also Ctrl-C: the user's data must not stay aside
        _undo(data)
        if ignored is not None:
            ignore.write_bytes(ignored)
        else:
            ignore.unlink(missing_ok=True)
        raise
    _drop(_swap(data), data)
    return versioned


def _recover(data: Path) -> None:
    """Finish a swap that was killed after the whole new folder came in, undo any other, and clear what was built."""
    swap = _swap(data)
    if swap.exists():
        # Neither is there before the old folder steps aside, and after it came back.
        begun = (swap / _BEFORE).exists() or (swap / _NOTHING).exists()
        if begun and _is_whole(data):
            if is_versioned(data):
                record_version(data)  # twice does no harm
            _drop(swap, data)
        else:
            _undo(data)
    for folder in data.parent.glob(f"{glob.escape(_build_prefix(data))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _undo(data: Path) -> None:
    """Bring back the folder and the ``.dvc`` file that a swap moved aside; killed at any step, it can run again."""
    swap, pointer = _swap(data), pointer_of(data)
    if (swap / _POINTER).exists():
        with replaced_file(pointer) as fresh:
            shutil.copyfile(swap / _POINTER, fresh)
    else:
        pointer.unlink(missing_ok=True)
    before = swap / _BEFORE
    if before.exists() or (swap / _NOTHING).exists():
        _drop(data, data)
    if before.exists():
        before.rename(data)
    _drop(swap, data)


def _drop(folder: Path, data: Path) -> None:
    """Remove a folder whole or, killed, not at all: it first moves to where the next command clears up."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(dir=data.parent, prefix=_build_prefix(data)))
        folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)


def _is_whole(data: Path) -> bool:
    """Whether every crop of the manifest is there, with its bytes; clears what a killed ``dvc add`` left between.

    DVC replaces a file that has several hard links by a copy, and takes it away for a moment.
    """
    try:
        frame = read_manifest(data / MANIFEST)
        for path, digest in zip(frame["path"], frame["sha256"], strict=True):
            if hashlib.sha256((data / path).read_bytes()).hexdigest() != digest:
                return False
    except (OSError, UsageError):
        return False
    for file in data.rglob(".*.tmp"):
        if _DVC_COPY.fullmatch(file.name):
            file.unlink()
    return True


def _swap(data: Path) -> Path:
    return data.with_name(f".{data.name}.swap")


def _build_prefix(data: Path) -> str:
    return f".{data.name}.import-"
