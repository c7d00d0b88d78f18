"""Case ids: what names a patient, and what may be one patient twice."""

from collections.abc import Callable

import pandas as pd
import pytest

from supcam.data.case_ids import case_doubts, patient_keys, plain_case


@pytest.mark.parametrize("text", ["", " ", "NA", "nan", "NaN", "none", "NULL", "n/a", "#N/A", "<NA>", "-", " NA "])
def test_no_patient(text: str) -> None:
    assert plain_case(text) == ""
    assert patient_keys([text]) == [""]


@pytest.mark.parametrize("text", ["0", "Nana", "P1", "unknown", "A-"])
def test_a_patient_keeps_the_name(text: str) -> None:
    assert plain_case(f" {text} ") == text


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1.0"), ("p1", "P1"), ("001", "1"), ("P 1", "p-01"), ("P_1", "P1"), ("Ｐ１", "P1")]
)
def test_spellings_of_one_patient(one: str, other: str) -> None:
    assert len(set(patient_keys([one, other]))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "10"), ("1", "1.1"), ("P1", "P11"), ("1-1", "11"), ("1.0", "10"), ("P1A", "P1B"), ("0", "A")],
)
def test_different_patients(one: str, other: str) -> None:
    assert len(set(patient_keys([one, other]))) == 2


def test_doubts_are_named_once_for_each_patient(manifest: Callable[..., pd.DataFrame]) -> None:
    one = manifest({"P01": {"instance": 2}, "p1": {"instance": 1}, "1-Mar": {"instance": 1}, "9": {"instance": 1}}, "a")
    two = manifest({"P01": {"instance": 2}, "1.2E+11": {"instance": 1}, "NA": {"touching": 1}}, "b")
    assert sorted(case_doubts(pd.concat([one, two], ignore_index=True))) == [
        ("mangled", "1-Mar", "looks changed by a spreadsheet"),
        ("mangled", "1.2E+11", "looks changed by a spreadsheet"),
        ("sources", "P01", "in a and b"),
        ("spelling", "NA", "names no patient"),
        ("spelling", "P01", "also written p1"),
    ]
