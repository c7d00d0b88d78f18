"""Tables that people edit, read as spreadsheets write them: encodings, separators, stray columns and rows, spaces."""

import codecs
import csv
import io
import re
from collections.abc import Collection

import pandas as pd

from supcam.errors import UsageError

_SEPARATORS = ",;\t|"
# Spaces, and characters that no one sees: zero width, soft hyphen, direction marks, byte order mark.
_AROUND = r"[\s\u00ad\u200b-\u200f\u2060\ufeff]+"


def read_table(
    content: bytes, where: str, remedy: str, *, encoding: str | None = None, needed: Collection[str] = ()
) -> pd.DataFrame:
    """Read a CSV as text; the index holds the line of the file in which each row begins.

    UTF-8, or else ``encoding``. Comma, semicolon, tab or vertical line, whichever the head holds most of, or
    the one that a line ``sep=`` before it names. Comments (``#``) before the head, which has the columns ``needed``,
    spaces around values, columns without name and values, and rows without values are left out; a short row is filled
    with empty values.

    Raises:
        UsageError: naming ``where``, the line and ``remedy``: for another encoding, an unnamed or doubled column, a
            row with more values than columns, or what is not a table.
    """
    text, separator, skipped = _without_preamble(_decode(content, where, remedy, encoding), needed)
    rows = _lines(text, separator, where, remedy, skipped)
    lines = [(line, [plain_value(value) for value in row]) for line, row in rows]
    filled = [(line, row) for line, row in lines if any(row)]
    if not filled:
        raise UsageError(f"{where} is empty. {remedy}")
    (_, head), *rows = filled
    width = max(len(row) for _, row in filled)
    head += [""] * (width - len(head))
    for line, row in rows:
        row += [""] * (width - len(row))
        stray = next((value for name, value in zip(head, row, strict=True) if value and not name), None)
        if stray is not None:
            raise UsageError(f"{where} line {line} has the value {stray!r} in a column without a name. Correct it.")
    frame = _frame(head, rows, where, remedy)
    return frame[[name for name in frame.columns if name]]


def read_exact_table(content: bytes, where: str, remedy: str) -> pd.DataFrame:
    """Read a CSV that a program wrote: row N of the table is line N + 2 of the file, and no value is missing.

    Raises:
        UsageError: naming ``where``, the line and ``remedy``, for anything else.
    """
    lines = _lines(_decode(content, where, remedy, None), ",", where, remedy)
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise UsageError(f"{where} is empty. {remedy}")
    (_, head), *rows = lines
    for expected, (line, row) in enumerate(rows, 2):
        if line != expected or any("\n" in value for value in row):
            raise UsageError(f"{where} line {min(line, expected)}: a value goes on in the next line. {remedy}")
        if len(row) != len(head):
            raise UsageError(f"{where} line {line} has {len(row)} values for {len(head)} columns. {remedy}")
    return _frame(head, rows, where, remedy).reset_index(drop=True)


def plain_value(text: str) -> str:
    """A value without spaces and invisible characters around it."""
    return re.sub(f"^{_AROUND}|{_AROUND}$", "", text)


def as_text(value: str) -> str:
    """A value that a spreadsheet shows and does not run: a formula gets the apostrophe that marks a text."""
    runs = re.match(r"[=+\-@]", value) and not re.fullmatch(
        r"[+-]*([0-9]*[.,]?[0-9]+(e[+-]?[0-9]+)?)?%?", value, re.IGNORECASE
    )
    return f"'{value}" if runs else value


def _decode(content: bytes, where: str, remedy: str, encoding: str | None) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start
    try:
        if encoding:
            return content.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise UsageError(f"{where} cannot be read as {encoding!r}: {error}. {remedy}") from None
    found = (
        "it is UTF-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else f"byte 0x{content[start]:02x}"
    )
    line = content.count(b"\n", 0, start) + 1
    raise UsageError(f"{where} line {line} is not a readable CSV in UTF-8: {found}. {remedy}")


def _without_preamble(text: str, needed: Collection[str]) -> tuple[str, str, int]:
    """The table from its head on, its separator, and how many lines stand before it."""
    separator, skipped = "", 0
    while first := re.match("([^\r\n]*)(\r\n|\r|\n)", text):
        said = re.fullmatch('"?sep=(.)"?', first[1].rstrip(" "), re.IGNORECASE)
        if said:
            separator = said[1]
        elif not first[1].lstrip().startswith("#"):
            break
        elif needed and set(needed) <= {plain_value(name).lower() for name in re.split(r"[#,;\t|]", first[1])}:
            text = re.sub(r"^\s*#+[ \t]*(?=[^,;\t|])", "", text)  # the head itself, behind the mark of a comment
            break
        text, skipped = text[first.end() :], skipped + 1
    head = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    return text, separator or max(_SEPARATORS, key=head.count), skipped


def _lines(text: str, separator: str, where: str, remedy: str, skipped: int = 0) -> list[tuple[int, list[str]]]:
    """The rows, each with the line it begins in, counted from behind the ``skipped`` ones."""
    rows: list[tuple[int, list[str]]] = []
    end = skipped
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            rows.append((end + 1, row))
            end = skipped + reader.line_num
    except csv.Error as error:
        raise UsageError(f"{where} is not a readable CSV: line {end + 1}: {error}. {remedy}") from None
    return rows


def _frame(head: list[str], rows: list[tuple[int, list[str]]], where: str, remedy: str) -> pd.DataFrame:
    twice = sorted({name for name in head if name and head.count(name) > 1})
    if twice:
        raise UsageError(f"{where} has two columns named {', '.join(twice)}. {remedy}")
    return pd.DataFrame([row for _, row in rows], columns=head, index=[line for line, _ in rows], dtype=str)
