"""Names in a zip are those that a person saw, whatever system packed it."""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from supcam.data.zip_names import entry_names
from supcam.errors import UsageError


def pack(path: Path, names: Sequence[bytes], extra: bytes = b"") -> list[zipfile.ZipInfo]:
    """A zip whose names are these bytes, without the flag that says UTF-8, as older programs write it."""
    standing = [f"{index:03d}" + "x" * (len(name) - 3) for index, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as file:
        for name in standing:
            entry = zipfile.ZipInfo(name)
            entry.extra = extra
            file.writestr(entry, b"content")
    content = path.read_bytes()
    for name, bare in zip(names, standing, strict=True):
        content = content.replace(bare.encode(), name)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        return file.infolist()


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["单条/病例0_染色体.png", "接触/病例1.png"], "gbk"),
        (["instance/陳誠_0.png"], "gbk"),  # rare characters, the second of which holds a backslash
        (["instance/許功蓋_0.png", "touching/王小明.png"], "big5"),
        (["instance/染色体テスト_0.png", "単独/ソ.png"], "cp932"),
        (["instance/환자_염색체.png"], "utf-8"),
        (["instance/Müller_0.png", "touching/Peña.png"], "cp437"),
        (["instance/Sørensen_0.png"], "cp850"),
        (["instance/plain.png"], ""),
    ],
)
def test_the_encoding_is_found(tmp_path: Path, names: list[str], encoding: str) -> None:
    """Chinese names came in as ║═╬, and those whose second byte is a backslash were said to lead out of the zip."""
    entries = pack(tmp_path / "lab.zip", [name.encode(encoding or "ascii") for name in names])
    assert entry_names(entries) == (names, encoding)


def test_an_encoding_that_is_given_wins_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    entries = pack(tmp_path / "lab.zip", ["instance/환자.png".encode("cp949")])
    assert entry_names(entries, "cp949") == (["instance/환자.png"], "cp949")
    for wrong in ("utf-8", "martian"):
        with pytest.raises(UsageError, match=f"--encoding '{wrong}' cannot read the name"):
            entry_names(entries, wrong)


def test_the_field_with_the_unicode_name_wins_unless_it_is_of_another_name(tmp_path: Path) -> None:
    name, bare = "instance/病例.png", b"instance/????.png"
    for crc, wanted in ((zlib.crc32(bare), name), (zlib.crc32(b"renamed since"), bare.decode())):
        field = struct.pack("<BI", 1, crc) + name.encode()
        entries = pack(tmp_path / "lab.zip", [bare], struct.pack("<HH", 0x7075, len(field)) + field)
        assert entry_names(entries)[0] == [wanted]


def test_backslashes_separate_folders(tmp_path: Path) -> None:
    entries = pack(tmp_path / "lab.zip", [b"data\\instance\\a.png"])
    assert entry_names(entries) == (["data/instance/a.png"], "")
