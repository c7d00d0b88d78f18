"""Names of the entries of a zip: in UTF-8 where the zip says so, else in the encoding of the system that packed it."""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

from supcam.errors import UsageError

_UTF8 = 0x800
_UNICODE_PATH = 0x7075
# What zipfile reads a name as that does not say UTF-8.
_UNSAID = "cp437"


def _pairs(*ranges: tuple[int, int]) -> Callable[[bytes], bool]:
    return lambda code: any(low <= int.from_bytes(code, "big") <= high for low, high in ranges)


# Encodings of the systems in use, each with the codes that its everyday characters have: in the right encoding a name
# is made of these, while the same bytes read by another fall on rare characters or none. GB 2312 and Big5: the tables
# of frequent characters. Shift JIS: kana and the first level of kanji. EUC-KR: the hangul of KS X 1001.
_CJK = {
    "gbk": _pairs((0xA1A1, 0xA9FE), (0xB0A1, 0xD7F9)),
    "big5": _pairs((0xA140, 0xA3BF), (0xA440, 0xC67E)),
    "cp932": _pairs((0xA1, 0xDF), (0x8140, 0x84BE), (0x889F, 0x9872)),
    "cp949": _pairs((0xA1A1, 0xACFE), (0xB0A1, 0xC8FE)),
}
_EUROPEAN = (_UNSAID, "cp850", "cp1252")


def entry_names(entries: Sequence[zipfile.ZipInfo], encoding: str | None = None) -> tuple[list[str], str]:
    """Names of the entries, in their order, with ``/`` between folders; and the encoding that was not said, or ``""``.

    Backslashes, which some programs for Windows write, separate folders as well. ``encoding`` is for the names that
    do not say UTF-8; without it, one is found that reads all of them: UTF-8, Western Europe where accents stand alone
    between letters, East Asia (everyday characters before rare ones), and code page 437, which the format demands.

    Raises:
        UsageError: for an unknown encoding, or one that cannot read the names.
    """
    raw = [_unsaid_bytes(entry) for entry in entries]
    foreign = [name for name in raw if name is not None and not name.isascii()]
    taken = (encoding or _find_encoding(foreign)) if foreign else ""
    names = []
    for entry, name in zip(entries, raw, strict=True):
        said = _unicode_path(entry) or entry.filename
        try:
            text = said if name is None or not taken else name.decode(taken)
        except (UnicodeError, LookupError) as error:
            raise UsageError(
                f"--encoding {taken!r} cannot read the name {said!r} in the zip ({error}); encodings are utf-8, gbk, "
                "big5, cp932, cp949, cp850, cp1252, ... Correct it."
            ) from None
        names.append(text.replace("\\", "/"))
    return names, taken


def _unsaid_bytes(entry: zipfile.ZipInfo) -> bytes | None:
    """The bytes of a name whose encoding the zip does not say; None where it does."""
    if entry.flag_bits & _UTF8 or _unicode_path(entry):
        return None
    return entry.orig_filename.split("\0")[0].encode(_UNSAID)


def _unicode_path(entry: zipfile.ZipInfo) -> str | None:
    """The name in the field that Info-ZIP and WinRAR add in UTF-8, unless it is of an earlier name."""
    extra = entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind != _UNICODE_PATH or len(field) < 5 or field[0] != 1:
            continue
        plain = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else _UNSAID)
        try:
            return field[5:].decode() if struct.unpack_from("<I", field, 1)[0] == zlib.crc32(plain) else None
        except UnicodeError:
            return None
    return None


def _find_encoding(names: Sequence[bytes]) -> str:
    if _decodes(names, "utf-8"):
        return "utf-8"
    if all(map(_is_european, names)):
        letters = (encoding for encoding in _EUROPEAN if _decodes(names, encoding, str.isalpha))
        return next(letters, _UNSAID)
    everyday = (name for name, usual in _CJK.items() if _decodes(names, name, _every(usual, name)))
    # Names of rare characters are at least characters, where code page 437 gives lines and signs.
    rare = (name for name in _CJK if _decodes(names, name, str.isalpha))
    return next(everyday, None) or next(rare, _UNSAID)


def _is_european(name: bytes) -> bool:
    """Whether the few bytes above ASCII stand alone between letters, as the accents of a Western name do."""
    high = sum(byte >= 0x80 for byte in name)
    return 3 * high <= len(name) and not re.search(rb"[\x80-\xff](?![A-Za-z0-9 ._/()-])", name)


def _every(usual: Callable[[bytes], bool], encoding: str) -> Callable[[str], bool]:
    return lambda letter: usual(letter.encode(encoding))


def _decodes(names: Sequence[bytes], encoding: str, fits: Callable[[str], bool] | None = None) -> bool:
    """Whether all names can be read, and each of their letters above ASCII fits."""
    try:
        texts = [name.decode(encoding) for name in names]
        return fits is None or all(fits(letter) for text in texts for letter in text if not letter.isascii())
    except UnicodeError:
        return False
