"""Tables that people edit, read as spreadsheets write them: separators, stray columns and rows, spaces."""

import csv
import io

import pandas as pd

from supcam.errors import UsageError


def read_table(content: bytes, where: str, remedy: str) -> pd.DataFrame:
    """Read a CSV as text; the index holds the line of the file in which each row begins.

    Comma, semicolon or tab, whichever the head holds most of. Spaces around values, columns without name and values,
    and rows without values are left out; a short row is filled with empty values.

    Raises:
        UsageError: naming ``where``, the line and ``remedy``: for another encoding, an unnamed or doubled column, a
            row with more values than columns, or what is not a table.
    """
    lines = [(line, [value.strip() for value in row]) for line, row in _lines(content, ",;\t", where, remedy)]
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
    lines = _lines(content, ",", where, remedy)
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


def _lines(content: bytes, separators: str, where: str, remedy: str) -> list[tuple[int, list[str]]]:
    """The rows, each with the line it begins in; the head decides between several separators."""
    rows: list[tuple[int, list[str]]] = []
    end = 0
    try:
        text = content.decode("utf-8-sig")
        separator = max(separators, key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            rows.append((end + 1, row))
            end = reader.line_num
    except UnicodeError as error:
        raise UsageError(f"{where} is not a readable CSV: {error}. {remedy}") from None
    except csv.Error as error:
        raise UsageError(f"{where} is not a readable CSV: line {end + 1}: {error}. {remedy}") from None
    return rows


def _frame(head: list[str], rows: list[tuple[int, list[str]]], where: str, remedy: str) -> pd.DataFrame:
    twice = sorted({name for name in head if name and head.count(name) > 1})
    if twice:
        raise UsageError(f"{where} has two columns named {', '.join(twice)}. {remedy}")
    return pd.DataFrame([row for _, row in rows], columns=head, index=[line for line, _ in rows], dtype=str)
