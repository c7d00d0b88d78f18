"""Which file a path in a label table means: as other systems, other folders and other spellings write it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote


def find_files(paths: Sequence[str], files: Sequence[str], place: str) -> tuple[list[str], str]:
    """The file of ``files`` that each path means, or the path as POSIX where none does.

    A file of that very name counts first. Else backslashes separate folders, ``file://`` and the source's own absolute
    path ``place`` are left out, and letters are compared without case and in one normal form (NFC), unless two files
    differ in nothing else. Where no path is found so, all of them may begin with folders that are not in the source
    (``C:/export/``): these are left out, and returned.
    """
    exact, counts = set(files), Counter(map(_key, files))
    by_key = {_key(file): file for file in files if counts[_key(file)] == 1}

    def find(path: str) -> str:
        return path if path in exact else by_key.get(_key(path), "")

    posix = [_posix(path, place) for path in paths]
    found = [path if path in exact else find(short) for path, short in zip(paths, posix, strict=True)]
    beginning = ""
    if not any(found):
        beginning, found = _without_beginning(posix, find)
    return [file or path for file, path in zip(found, posix, strict=True)], beginning


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _posix(path: str, place: str) -> str:
    if path.lower().startswith("file:"):
        path = unquote(re.sub("^file:/*(?=/|[a-z]:)|^file:", "", path, flags=re.IGNORECASE))
    path = PurePosixPath(path.replace("\\", "/")).as_posix()
    return path.removeprefix(f"{place.rstrip('/')}/") if place else path


def _without_beginning(paths: Sequence[str], find: Callable[[str], str]) -> tuple[str, list[str]]:
    """The folders that all paths begin with whose removal finds most files, and these; none unless it finds half."""
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    shared = next((depth for depth, names in enumerate(zip(*folders, strict=False)) if len(set(names)) > 1), None)
    best, found = "", [""] * len(paths)
    for count in range(1, (min(map(len, folders), default=0) if shared is None else shared) + 1):
        tried = [find("/".join(PurePosixPath(path).parts[count:])) for path in paths]
        if sum(map(bool, tried)) > max(sum(map(bool, found)), (len(paths) - 1) // 2):
            best, found = PurePosixPath(*folders[0][:count]).as_posix(), tried
    return best, found
