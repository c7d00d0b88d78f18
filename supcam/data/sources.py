"""What can be imported: a folder or a zip, as a list of safe relative paths that can be read."""

import glob
import os
import re
import stat
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from supcam.data.zip_names import entry_names
from supcam.errors import UsageError
from supcam.serving.images import IMAGE_SUFFIXES, MAX_BYTES

MAX_FILES = 2_000_000
MAX_RATIO = 1000
# Of a whole zip, which entries that share their packed bytes can make of any size.
MAX_UNPACKED = 2**28
MAX_TOTAL_RATIO = 100
LABELS = "labels.csv"
OVERLAP = 255  # value of label maps where chromosomes overlap

_ENCRYPTED = 0x1
_TABLE_SUFFIXES = {".csv", ".tsv", ".tab", ".txt"}
_WORKBOOKS = {".xlsx", ".xls", ".xlsm", ".ods", ".numbers"}
_ARCHIVES = {".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst"}
# What a file is that bears the name of a zip, by its first bytes.
_NOT_ZIPS = {
    b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x1f\x8b": "a gzip archive", b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive", b"\x28\xb5\x2f\xfd": "a Zstandard archive",
}  # fmt: skip
# Of the ZIP specification, 4.4.5, and WinZip's 99.
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 10: "Implode", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}
_READ_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}


class ImportSource(ABC):
    """One source; opening it lists its files, and labelling it adds to what is refused or ignored.

    Attributes:
        name: Begins the ids of its crops.
        table: Pattern of the name of its label table, in any case of its letters.
        encoding: That of tables that are not UTF-8, as given.
        files: Crops, label tables and licences, as POSIX paths below the source.
        root: Where ``files`` begin below the folder or zip: empty, or the labelled folder and a slash.
        refused: Why a file cannot be taken, by path.
        ignored: Other files, counted by what they are.
        archives: Archives among them, which are not unpacked.
        notes: What a person should know of how the names were read, each a sentence.
        type_map: Type by folder name, as given or found.
    """

    def __init__(self, name: str, table: str = LABELS) -> None:
        self.name, self.table = name, table
        self.encoding: str | None = None
        self.root = ""
        self.files: list[str] = []
        self.refused: dict[str, str] = {}
        self.ignored: Counter[str] = Counter()
        self.archives: list[str] = []
        self.notes: list[str] = []
        self.type_map: dict[str, str] = {}

    @property
    def place(self) -> str:
        """Where the root of this source lies, as an absolute POSIX path; empty where that is in no folder."""
        return ""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Bytes of one file; a UsageError when it cannot be read or is larger than an image may be."""

    def enter_labelled_folder(self) -> None:
        """Take the folder that holds the only label table as the root, as zips wrap everything in one.

        Raises:
            UsageError: when there are several label tables, or crops outside the labelled folder.
        """
        tables = [path for path in self.files if self.is_table(path)]
        if len(tables) > 1:
            found = ", ".join(sorted(tables)[:5])
            raise UsageError(
                f"source {self.name!r} holds several label tables ({found}). Import each folder by itself."
            )
        if not tables or "/" not in tables[0]:
            return
        folder = PurePosixPath(tables[0]).parent
        self.root = f"{folder}/"
        outside = next((path for path in self.files if is_image(path) and not path.startswith(self.root)), None)
        if outside is not None:
            raise UsageError(
                f"source {self.name!r} has crops outside the folder of {tables[0]}, such as {outside}. "
                f"Import {folder} by itself."
            )
        self.files = [path.removeprefix(self.root) for path in self.files if path.startswith(self.root)]

    def is_table(self, path: str) -> bool:
        """Whether a file is the label table of this source, in any case of its letters."""
        return fnmatchcase(PurePosixPath(path).name.lower(), self.table.lower())

    def _keep(self, path: str) -> None:
        """List a regular file unless its name is unsafe or it is not a crop, label table or licence."""
        pure = PurePosixPath(path)
        if any(part.startswith(".") or part == "__MACOSX" for part in pure.parts):
            self.ignored["hidden files"] += 1
        elif pure.suffix.lower() in _WORKBOOKS and pure.stem.lower() == PurePosixPath(LABELS).stem:
            self.refused[path] = "is a spreadsheet. Save it as CSV (UTF-8) beside the crops, or remove it."
        elif pure.suffix.lower() in _ARCHIVES:
            self.archives.append(path)
            self.ignored["archives, which are not unpacked"] += 1
        elif not (is_image(path) or self.is_table(path) or is_licence(path)):
            self.ignored["files without an image suffix"] += 1
        elif not _printable(path):
            self.refused[ascii(path)] = "has unprintable characters in its name. Rename it."
        else:
            self.files.append(path)


class FolderSource(ImportSource):
    """A folder. Symbolic links may not leave it; pipes and devices are refused."""

    def __init__(self, root: Path, table: str = LABELS) -> None:
        super().__init__(root.resolve().name, table)
        self._folder = root.resolve()
        for folder, folders, names in os.walk(self._folder):
            folders.sort()  # os.walk goes on in this order: the same source always gives the same list
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in [*links, *sorted(names)]:
                self._judge(Path(folder, name))

    @property
    def place(self) -> str:
        """The folder, down to the labelled one."""
        return (self._folder / self.root).as_posix()

    def read(self, path: str) -> bytes:
        """Bytes of one file below the folder."""
        file = self._folder / self.root / path
        try:
            size = file.stat().st_size
            if size > MAX_BYTES:
                raise UsageError(f"holds {size} bytes; allowed are at most {MAX_BYTES}. Save single crops.")
            return file.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot be opened: {error.strerror or error}. Check the file.") from None

    def _judge(self, file: Path) -> None:
        path = file.relative_to(self._folder).as_posix()
        # realpath and not resolve, which raises an error of its own for links in a circle.
        if not Path(os.path.realpath(file)).is_relative_to(self._folder):
            self.refused[path] = "is a link out of the source. Replace it by its file."
            return
        try:
            mode = file.stat().st_mode
        except OSError as error:
            self.refused[path] = f"cannot be opened: {error.strerror or error}. Check the file."
            return
        if stat.S_ISREG(mode):
            self._keep(path)
        elif stat.S_ISDIR(mode):
            self.ignored["linked folders"] += 1
        elif is_image(path):
            self.refused[path] = "is a pipe, socket or device, not a file. Remove it."


class ZipSource(ImportSource):
    """A zip read in place: nothing is unpacked to disk, so no entry can write anywhere.

    ``encoding`` is that of the names of entries which do not say UTF-8; None finds it.
    """

    def __init__(self, path: Path, encoding: str | None = None, table: str = LABELS) -> None:
        super().__init__(path.resolve().stem, table)
        self._path = path
        self._entries: dict[str, zipfile.ZipInfo] = {}
        _refuse_other_archives(path)
        try:
            self._zip = zipfile.ZipFile(path)
            entries = self._zip.infolist()
        except Exception as error:  # zipfile raises many types on damaged archives
            raise UsageError(f"{path} is not a readable zip: {error}. Download it again.") from None
        if len(entries) > MAX_FILES:
            raise UsageError(f"{path} holds {len(entries)} entries; allowed are at most {MAX_FILES}. Split it.")
        names, taken = entry_names(entries, encoding)
        if taken:
            self.notes.append(f"names in {path.name} are read as {taken}; another encoding: --encoding NAME")
        for entry, name in zip(entries, names, strict=True):
            self._judge(entry, name)
        self._refuse_whole()
        total = sum(entry.file_size for entry in self._entries.values())
        allowed = max(MAX_UNPACKED, MAX_TOTAL_RATIO * path.stat().st_size)
        if total > allowed:
            raise UsageError(
                f"{path} unpacks to {total} bytes; allowed are at most {allowed}, the larger of {MAX_UNPACKED} and "
                f"{MAX_TOTAL_RATIO} times its size. Split it, or import its folder unpacked."
            )

    def read(self, path: str) -> bytes:
        """Bytes of one entry, never more than an image may hold."""
        try:
            with self._zip.open(self._entries[self.root + path]) as file:
                content = file.read(MAX_BYTES + 1)  # the size in the header may be false
        except Exception as error:  # as above, and from zlib
            raise UsageError(f"cannot be unpacked: {error or type(error).__name__}. Download the zip again.") from None
        if len(content) > MAX_BYTES:
            raise UsageError(f"unpacks to more than {MAX_BYTES} bytes. Save single crops.")
        return content

    def _judge(self, entry: zipfile.ZipInfo, full: str) -> None:
        # Archivers write ./a and a/./b for a and a/b; one spelling only, or one crop would overwrite the other.
        name = "/".join(part for part in full.split("/") if part != ".")
        if full.endswith(("/", "/.")):
            return
        reason = _unsafe_entry(entry, full, name in self._entries)
        if reason:
            self.refused[name if _printable(name) else ascii(name)] = reason
        else:
            self._entries[name] = entry
            self._keep(name)

    def _refuse_whole(self) -> None:
        """Refuse in one line what concerns every crop: a password, or a method of packing."""
        wanted = [self._entries[path] for path in self.files]
        locked = sum(bool(entry.flag_bits & _ENCRYPTED) for entry in wanted)
        if locked:
            what = f"{locked} of {len(wanted)} files in {self._path} are encrypted"
            raise UsageError(f"{what}. Make the zip again without a password.")
        for number in sorted({entry.compress_type for entry in wanted} - _READ_METHODS):
            method = _METHODS.get(number, f"method {number}")
            raise UsageError(
                f"{self._path} is packed with {method}, which is not read; allowed are Deflate, BZip2, LZMA and "
                "stored. Make the zip again with Deflate, or unpack it and import the folder."
            )


def open_source(path: Path, encoding: str | None = None) -> ImportSource:
    """Open a folder, a zip or the folder of a label table, which is a CSV file of any name.

    ``encoding`` is that of tables, and of names in a zip, which are not UTF-8.

    Raises:
        UsageError: for anything else, naming it.
    """
    suffix = path.suffix.lower() if path.is_file() else ""
    if path.is_dir():
        source: ImportSource = FolderSource(path)
    elif suffix in _TABLE_SUFFIXES:
        source = FolderSource(path.resolve().parent, glob.escape(path.resolve().name))
    elif suffix == ".zip":
        source = ZipSource(path, encoding)
    elif suffix in _WORKBOOKS:
        raise UsageError(f"source {path} is a spreadsheet. Save it as CSV (UTF-8) in the same folder and import that.")
    elif suffix in _ARCHIVES:
        what = f"source {path} is an archive that is not read; a zip is"
        raise UsageError(f"{what}. Unpack it and import the folder.")
    else:
        state = "is not a folder, zip or CSV table" if path.exists() else "does not exist"
        raise UsageError(f"source {path} {state}. Give a folder per type, a zip of one, or a table of labels.")
    require_name(source, path)
    source.encoding = encoding
    source.enter_labelled_folder()
    return source


def require_name(source: ImportSource, path: Path) -> None:
    """Refuse a source, opened from ``path``, whose name cannot begin the ids of its crops.

    Raises:
        UsageError: naming it.
    """
    if not source.name or source.name[0] in ".=+-@" or not _printable(source.name):
        raise UsageError(f"source {path} is named {source.name!r}, which cannot name crops. Rename it.")


def is_image(path: str) -> bool:
    """Whether the suffix is one of ``IMAGE_SUFFIXES``, in any case."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def is_licence(path: str) -> bool:
    """Whether a file holds licence terms, which travel with every copy of the crops."""
    pure = PurePosixPath(path)
    return pure.stem.lower() in {"license", "licence", "copying"} and pure.suffix.lower() in {"", ".txt", ".md"}


def _printable(name: str) -> bool:
    # A name that is not UTF-8 comes as lone surrogates, which no manifest can hold.
    return name.isprintable() and name.encode(errors="replace").decode() == name


def _refuse_other_archives(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(512)
    kind = next((kind for begin, kind in _NOT_ZIPS.items() if head.startswith(begin)), None)
    if kind or head[257:262] == b"ustar":
        raise UsageError(f"{path} is {kind or 'a tar archive'}, not a zip. Unpack it and import the folder.")
    if head.lstrip().lower().startswith((b"<!doc", b"<html", b"<?xml")):
        raise UsageError(f"{path} is a web page, not a zip. Download the zip again; its site may ask for a login.")


def _unsafe_entry(entry: zipfile.ZipInfo, name: str, twice: bool) -> str | None:
    if name.startswith("/") or re.match("[A-Za-z]:", name) or {"..", ""} & set(name.split("/")):
        return "leads out of the zip. Make the zip again from a plain folder."
    # The upper half holds the mode of the file where a Unix program packed it.
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link. Put the file itself into the zip."
    if twice:
        return "is in the zip twice. Make the zip again."
    if entry.file_size > MAX_BYTES or entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
        return f"unpacks to {entry.file_size} bytes; allowed are {MAX_BYTES} and {MAX_RATIO} times its packed size."
    return None
