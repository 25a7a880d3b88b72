"""Lists in text files: what is read, what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from crossguard.core import DataError
from crossguard.data.lists import open_list, read_names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_names_are_numbered_by_line(tmp_path: Path, encoding: str, ending: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(ending.join(["gêne", " walk ", "talk", "", ""]), encoding=encoding, newline="")
    assert read_names(file, "") == ["gêne", "walk", "talk"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n\nb", r"classes\.txt, line 2: no name"),
        ("\na", r"classes\.txt, line 1: no name"),
        ("a\nb\n a", r"classes\.txt, line 3: 'a' is in line 1 too"),
    ],
)
def test_names_that_would_be_numbered_otherwise_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read_names(tmp_path / "classes.txt", "")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list.csv").write_text("a,é\n", encoding=encoding)
    with (
        pytest.raises(DataError, match=r"list\.csv: found the byte 0x.., which is not UTF-8; save the file as UTF-8"),
        open_list(tmp_path / "list.csv", "") as stream,
    ):
        list(csv.reader(stream))


def test_what_is_not_there_or_damaged_is_said_with_how_to_mend_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no list that can be read .*; fetch it"):
        read_names(tmp_path / "none.csv", "fetch it")
    (tmp_path / "list.csv").write_text('a,"b\n')
    with (
        pytest.raises(DataError, match=r"list\.csv: no list that can be read \(unexpected end of data\); fetch it"),
        open_list(tmp_path / "list.csv", "fetch it") as stream,
    ):
        list(csv.reader(stream, strict=True))
