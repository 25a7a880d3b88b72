"""TFRecord files without TensorFlow: framing and checksums.

A record is the length of its payload (8 bytes, little endian), the masked CRC32C of the length, the payload, and the
masked CRC32C of the payload (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crossguard.core.errors import DataError
from crossguard.core.files import write_atomic
from crossguard.data.crc32c import crc32c

_LENGTH = struct.Struct("<Q")
_CHECK = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """A record that starts at `offset` of its file and ends at `end`: its payload, or a `problem` that it has.

    Where the length itself is damaged or the file ends within, nothing after it can be read: `end` is None.
    """

    offset: int
    end: int | None
    payload: bytes = b""
    problem: str | None = None


def masked(data: bytes) -> int:
    """The checksum as it is written."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path, start: int = 0, *, buffer: int = 1 << 20) -> Iterator[Record]:
    """The records of a file from the one at byte `start` on, damaged ones too, read `buffer` bytes or a record at once;
    raises DataError for a file that cannot be read at all."""
    try:
        with path.open("rb", buffering=buffer) as file:
            file.seek(start)
            while True:
                record = _next(file, file.tell())
                if record is not None:
                    yield record
                if record is None or record.end is None:
                    return
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _next(file: IO[bytes], offset: int) -> Record | None:
    head = file.read(_LENGTH.size + _CHECK.size)
    if not head:
        return None
    if len(head) < _LENGTH.size + _CHECK.size:
        return Record(offset, None, problem=f"truncated: the file ends {len(head)} bytes into a record's length")
    if masked(head[: _LENGTH.size]) != _CHECK.unpack_from(head, _LENGTH.size)[0]:
        return Record(offset, None, problem="corrupt: the checksum of its length does not fit; the rest is lost")
    length = _LENGTH.unpack_from(head)[0]
    body = file.read(length + _CHECK.size)
    if len(body) < length + _CHECK.size:
        return Record(offset, None, problem=f"truncated: {len(body)} bytes left of {length + _CHECK.size} announced")
    payload, end = body[:length], offset + len(head) + len(body)
    if masked(payload) != _CHECK.unpack_from(body, length)[0]:
        return Record(offset, end, problem="corrupt: its checksum does not fit")
    return Record(offset, end, payload)


def payload_at(path: Path, offset: int) -> bytes:
    """The payload of the record that starts at `offset`; raises DataError, naming file and offset, without one."""
    record = next(records(path, offset, buffer=1 << 12), None)  # no more of the file than the record
    if record is None or record.problem is not None:
        raise DataError(f"{path}, byte {offset}: {'no record' if record is None else record.problem}; fetch it again")
    return record.payload


def write_records(path: Path, payloads: Iterable[bytes]) -> None:
    """Write a file of records, whole or not at all."""

    def write(file: IO[bytes]) -> None:
        for payload in payloads:
            length = _LENGTH.pack(len(payload))
            file.write(length + _CHECK.pack(masked(length)) + payload + _CHECK.pack(masked(payload)))

    write_atomic(path, write)
