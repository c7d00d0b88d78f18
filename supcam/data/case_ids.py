"""Case ids as people and spreadsheets write them: which name no patient, and which are one patient in two spellings."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

import pandas as pd

# What pandas, R, spreadsheets and people write for "none".
_NOBODY = {"na", "n/a", "#n/a", "nan", "none", "null", "nil", "<na>", "nat", "-", "--", "?", "."}
# Spreadsheets turn 3-1 into a date and a long number into 1.23E+11, which other long numbers become as well.
_MANGLED = re.compile(
    r"\d{1,2}-(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*|\d(\.\d+)?e\+\d+|#(ref!|name\?|value!|num!)", re.I
)
# Kinds of doubt: in several sources, in several spellings, changed by a spreadsheet.
CASE_DOUBTS = ("sources", "spelling", "mangled")


def plain_case(text: str) -> str:
    """A case id as it is kept: without spaces around it, and empty where it names nobody, as ``NA`` does."""
    text = text.strip()
    return "" if text.lower() in _NOBODY else text


def patient_keys(case_ids: Iterable[str]) -> list[str]:
    """What the ids of one patient have in common: equal for ``p1`` and ``P 1``, and for ``1``, ``1.0`` and ``001``."""
    keys = {case: _patient_key(case) for case in set(case_ids)}
    return [keys[case] for case in case_ids]


def _patient_key(case: str) -> str:
    text = unicodedata.normalize("NFKC", plain_case(case)).casefold()
    text = re.sub(r"[\s_‐-―−]+", "-", text)
    text = re.sub(r"(?<=[a-z])-(?=\d)", "", text)
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    return re.sub(r"(?<!\d)(?<!\d\.)0+(?=\d)", "", text)


def case_doubts(frame: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Kind (of ``CASE_DOUBTS``), id and description of every case id of a manifest that a person should look at."""
    cases = (
        frame.loc[frame["case_id"] != "", ["source", "case_id"]].drop_duplicates().sort_values(["case_id", "source"])
    )
    cases = cases.assign(key=lambda rows: patient_keys(rows["case_id"]))
    for key, rows in cases.groupby("key", sort=True):
        name = str(rows["case_id"].iloc[0])
        spellings = sorted(set(rows["case_id"]))
        if not key:
            yield "spelling", name, "names no patient"
            continue
        if len(spellings) > 1:
            yield "spelling", name, f"also written {', '.join(spellings[1:])}"
        if rows["source"].nunique() > 1:
            yield "sources", name, f"in {' and '.join(sorted(set(rows['source'])))}"
        if _MANGLED.fullmatch(name):
            yield "mangled", name, "looks changed by a spreadsheet"
