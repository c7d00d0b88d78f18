"""A path in a table means the file that a person meant, and no other."""

import unicodedata

import pytest

from supcam.data.table_paths import find_files

FILES = ["crops/a.png", "crops/b.png", "Müller.png", "twin.PNG", "twin.png"]
PLACE = "/home/lab/2024"


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("crops/a.png", "crops/a.png"),
        ("./crops//a.png", "crops/a.png"),
        ("crops\\a.png", "crops/a.png"),
        ("CROPS/A.PNG", "crops/a.png"),
        ("/home/lab/2024/crops/a.png", "crops/a.png"),
        ("file:///home/lab/2024/crops/a.png", "crops/a.png"),
        ("file:///home/lab/2024/M%C3%BCller.png", "Müller.png"),
        (unicodedata.normalize("NFD", "Müller.png"), "Müller.png"),
        ("twin.png", "twin.png"),
        ("twin.PNG", "twin.PNG"),
    ],
)
def test_every_spelling_of_one_path(path: str, file: str) -> None:
    assert find_files([path, "crops/b.png"], FILES, PLACE) == ([file, "crops/b.png"], "")


@pytest.mark.parametrize("path", ["twin.pNG", "../crops/a.png", "/etc/crops/a.png", "a.png", "crops/a"])
def test_what_could_be_two_files_or_none_is_not_found(path: str) -> None:
    found, beginning = find_files([path, "crops/b.png"], FILES, PLACE)
    assert found[0] not in FILES
    assert not beginning


@pytest.mark.parametrize(
    ("begin", "said"),
    [("C:\\Users\\lab\\", "C:/Users/lab"), ("\\\\server\\share\\", "//server/share"), ("file:///data/", "/data"),
     ("file:///C:/data/", "C:/data"), ("2024/", "2024")],
)  # fmt: skip
def test_folders_of_another_computer_are_left_out_when_all_paths_begin_with_them(begin: str, said: str) -> None:
    paths = [f"{begin}crops\\{name}.png" for name in ("a", "b", "absent")]
    found, beginning = find_files(paths, FILES, PLACE)
    assert found[:2] == ["crops/a.png", "crops/b.png"]
    assert "absent" in found[2] and found[2] not in FILES
    assert beginning == said


def test_one_file_of_many_is_no_reason_to_leave_folders_out() -> None:
    paths = ["old/crops/a.png", "old/crops/x.png", "old/crops/y.png"]
    assert find_files(paths, FILES, PLACE) == (paths, "")
