"""Tables come in as spreadsheets write them, and what cannot be meant is named with its line."""

import pytest

from supcam.data.tables import read_exact_table, read_table
from supcam.errors import UsageError


@pytest.mark.parametrize(
    "text",
    [
        "path,type\na.png,touching\n",
        "\ufeffpath;type\r\na.png;touching\r\n",
        "path\ttype\na.png\ttouching",
        "path,type,\na.png,touching,\n",
        "path,type\na.png,touching,\n,\n,,\n",
        "path,,type\na.png,,touching\n",
        " path , type \n a.png , touching \n",
        '\n"path","type"\n\n"a.png","touching"\n',
    ],
)
def test_every_form_of_one_table_reads_the_same(text: str) -> None:
    frame = read_table(text.encode(), "table", "Save it.")
    assert frame.to_dict("records") == [{"path": "a.png", "type": "touching"}]


def test_lines_are_those_of_the_file() -> None:
    frame = read_table(b'path,note\n\na,"two\nlines"\n,\nb\n', "table", "Save it.")
    assert frame.index.to_list() == [3, 6]
    assert frame["note"].to_list() == ["two\nlines", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "table is empty. Save it"),
        (b",,\n\n", "table is empty"),
        (b"path,type,path\na,b,c\n", "two columns named path"),
        (b"path,type\na,b,c\n", "line 2 has the value 'c' in a column without a name"),
        (b'path,type\n"a,b\n', "line 2: unexpected end of data"),
        ("path,type\nü,b\n".encode("latin-1"), "not a readable CSV"),
        ("path,type\na,b\n".encode("utf-16"), "not a readable CSV"),
        (bytes(range(256)), "not a readable CSV"),
    ],
)
def test_what_is_not_a_table_is_named(content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_table(content, "table", "Save it.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n\n3,4\n", "line 3 has 0 values for 2 columns"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 values for 2 columns"),
        ("a,b\n1,2\n3\n", "line 3 has 1 values for 2 columns"),
        ('a,b\n1,"2\n2"\n3,4\n', "line 2: a value goes on in the next line"),
        ("a,b,a\n1,2,3\n", "two columns named a"),
        ("", "is empty"),
    ],
)
def test_an_exact_table_has_no_stray_line_or_value(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_exact_table(text.encode(), "table", "Restore it.")
    assert read_exact_table(b"a,b\n1, 2\n\n", "table", "").to_dict("records") == [{"a": "1", "b": " 2"}]
