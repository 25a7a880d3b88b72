"""Lists in text files (clips, classes, tables), which every reader opens in this one way."""

from __future__ import annotations

import csv
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from crossguard.core.errors import DataError


@contextmanager
def open_list(file: Path, mend: str) -> Generator[TextIO]:
    """A list as a stream of text, without its byte-order mark; raises DataError where it is missing, not in UTF-8 or,
    read as CSV, damaged. `mend` says what was expected, or what is to be done."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            yield stream
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{file}: found the byte 0x{byte:02x}, which is not UTF-8; save the file as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{file}: no list that can be read ({error}); {mend}") from error


def read_names(file: Path, mend: str) -> list[str]:
    """Class names, one a line, whose order numbers them; raises DataError, naming the line, where one is blank (but at
    the end) or occurs twice, and as `open_list` does."""
    with open_list(file, mend) as stream:
        names = [line.strip() for line in stream.read().rstrip().splitlines()]
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{file}, line {number}: no name; classes are numbered by line, so take it out or name it")
        if first.setdefault(name, number) != number:
            raise DataError(f"{file}, line {number}: {name!r} is in line {first[name]} too; expected each class once")
    return names
