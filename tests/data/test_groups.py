"""Which crops share a group, what it is called, and the connected groups behind it."""

import numpy as np
import pandas as pd
import pytest

from supcam.data.groups import connected, group_crops, merged, same_values

CROPS = pd.DataFrame(
    {
        "crop_id": ["1", "2", "3", "4", "5"],
        "source": ["lab", "lab", "lab", "other", "other"],
        "case_id": ["b", "b", "", "B", "z"],
        "sha256": ["h1", "h2", "h3", "h4", "h5"],
    },
    index=[9, 4, 7, 5, 6],
)


def test_a_group_is_named_after_its_case_or_its_first_crop() -> None:
    names = group_crops(CROPS, by_case=True, together=False)
    assert names.to_dict() == {9: "lab/b", 4: "lab/b", 7: "crop 3", 5: "other/B", 6: "other/z"}


def test_by_default_an_id_is_one_patient_in_every_source() -> None:
    assert group_crops(CROPS, by_case=True).tolist() == ["lab/b", "lab/b", "crop 3", "lab/b", "other/z"]


def test_without_cases_only_bytes_and_links_join_crops() -> None:
    same = CROPS.assign(sha256=["h1", "h2", "h1", "h4", "h5"])
    names = group_crops(same, by_case=False, linked=[["5", "gone"], ["2", "5"], ["gone"]])
    assert names.tolist() == ["crop 1", "crop 2", "crop 1", "crop 4", "crop 2"]


@pytest.mark.parametrize("kind", ["str", "object"])
def test_names_are_texts_of_the_type_of_the_table(kind: str) -> None:
    assert group_crops(CROPS.astype(kind), by_case=True).dtype == kind


def test_groups_that_share_a_number_become_one_in_the_order_of_their_smallest() -> None:
    assert merged([[8, 9], [5, 2], [7], [3, 9], [2, 6]]) == [[2, 5, 6], [3, 8, 9], [7]]
    assert merged([]) == []


def test_numbers_that_no_pair_names_are_in_no_group() -> None:
    assert connected(np.array([[6, 1], [4, 3], [1, 4], [8, 8]])) == [[1, 3, 4, 6], [8]]


def test_only_texts_that_come_twice_are_grouped() -> None:
    assert same_values(["b", "a", "", "b", "c", "", "a", "a"]) == [[0, 3], [1, 6, 7]]
