"""The SequenceExamples in TFRecord files: protocol buffers (tensorflow/core/example/example.proto), read and written.

SequenceExample {context: Features = 1, feature_lists: FeatureLists = 2}
Features {map<string, Feature> = 1}       FeatureLists {map<string, FeatureList> = 1}
FeatureList {repeated Feature = 1}        Feature {bytes_list = 1 | float_list = 2 | int64_list = 3}, of value = 1
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossguard.core.errors import DataError

Value: TypeAlias = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
Span: TypeAlias = tuple[int, int]

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
_MESSAGE = 2  # wire type: a length and so many bytes


def parse(data: bytes) -> tuple[dict[str, Value], dict[str, Span]]:
    """The context by name, and where in `data` each feature list lies; raises DataError for what is no such message."""
    try:
        context: dict[str, Value] = {}
        lists: dict[str, Span] = {}
        for number, (start, end) in _messages(data, 0, len(data)):
            for _, entry in _messages(data, start, end):
                name, span = _entry(data, entry)
                if number == 1:
                    context[name] = _feature(data, span)
                elif number == 2:
                    lists[name] = span
        return context, lists
    except (IndexError, ValueError, struct.error) as error:
        raise DataError(f"no SequenceExample: {error}") from error


def frames(data: bytes, span: Span) -> NDArray[np.uint8]:
    """(T, D) bytes of a feature list whose features are one string of D bytes each; a view into `data`, no copy.

    All frames of one width are framed alike, so the list is a table whose first columns are the same in every row.
    Raises DataError where they differ in width or hold something else.
    """
    start, end = span
    if start == end:
        return np.zeros((0, 0), np.uint8)
    try:
        first, width = _frame(data, start, end)
        whole, rest = divmod(end - start, first - start + width)
        if rest == 0:
            table = np.frombuffer(data, np.uint8, end - start, start).reshape(whole, -1)
            if (table[:, : first - start] == table[0, : first - start]).all():
                return table[:, first - start :]
        widths: list[int] = []
        while start < end:
            begin, width = _frame(data, start, end)
            start = begin + width
            widths.append(width)
    except (IndexError, ValueError) as error:
        raise DataError(f"no list of byte strings: {error}") from error
    raise DataError(f"frames of {min(widths)} to {max(widths)} bytes, expected one width")


def build(context: Mapping[str, Sequence[int] | bytes], lists: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """A SequenceExample of integers or one string by name, and of (T, D) bytes by name."""
    features = b"".join(_field(1, _field(1, k.encode()) + _field(2, _value(v))) for k, v in context.items())
    listed = b"".join(_field(1, _field(1, k.encode()) + _field(2, _listed(v))) for k, v in lists.items())
    return _field(1, features) + _field(2, listed)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise ValueError(f"a number of more than 64 bits at byte {at}")
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number without end at byte {at}")


def _messages(data: bytes, start: int, end: int) -> Iterator[tuple[int, Span]]:
    """Number and place of each field of a message; all that is read here are messages and strings."""
    while start < end:
        tag, start = _varint(data, start)
        if tag & 7 != _MESSAGE:
            raise ValueError(f"wire type {tag & 7} at byte {start}, expected {_MESSAGE}")
        size, start = _varint(data, start)
        if start + size > end:
            raise ValueError(f"a field of {size} bytes at byte {start} ends after its message")
        yield tag >> 3, (start, start + size)
        start += size


def _entry(data: bytes, span: Span) -> tuple[str, Span]:
    """Key and value of an entry of a map; what is left out is empty."""
    found = dict(_messages(data, *span))
    key = found.get(1, (0, 0))
    return data[slice(*key)].decode(), found.get(2, (0, 0))


def _feature(data: bytes, span: Span) -> Value:
    for kind, (start, end) in _messages(data, *span):
        if kind == _BYTES:
            return [data[slice(*value)] for _, value in _messages(data, start, end)]
        if kind in (_FLOATS, _INTEGERS):
            return _numbers(data, start, end, kind)
    return []


def _numbers(data: bytes, start: int, end: int, kind: int) -> Value:
    """Packed or not, as writers may choose."""
    found: list[Any] = []
    while start < end:
        tag, start = _varint(data, start)
        packed = tag & 7 == _MESSAGE
        size, start = _varint(data, start) if packed else (1, start)
        stop = start + size
        if stop > end:
            raise ValueError(f"{size} bytes of numbers at byte {start} end after their message")
        while start < stop:
            if kind == _FLOATS:
                found.append(struct.unpack_from("<f", data, start)[0])
                start += 4
            else:
                value, start = _varint(data, start)
                found.append(value - (value >> 63 << 64))
    return np.array(found, np.float32) if kind == _FLOATS else np.array(found, np.int64)


def _first(data: bytes, start: int, end: int) -> tuple[int, Span]:
    found = next(_messages(data, start, end), None)
    if found is None:
        raise ValueError(f"nothing at byte {start}")
    return found


def _frame(data: bytes, start: int, end: int) -> Span:
    """Where the only string of the feature at `start` begins, and its width."""
    number, feature = _first(data, start, end)
    kind, listed = _first(data, *feature)
    value, (begin, stop) = _first(data, *listed)
    if (number, kind, value) != (1, _BYTES, 1) or not feature[1] == listed[1] == stop:
        raise ValueError(f"the feature at byte {start} is not one string")
    return begin, stop - begin


def _number(value: int) -> bytes:
    found = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | _MESSAGE) + _number(len(content)) + content


def _value(value: Sequence[int] | bytes) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES, _field(1, value))
    return _field(_INTEGERS, _field(1, b"".join(_number(v) for v in value)))


def _listed(values: NDArray[np.uint8]) -> bytes:
    """A feature list of (T, D) bytes: the same framing before every row."""
    count, width = values.shape
    framing = _field(1, _field(_BYTES, _field(1, bytes(width))))[: -width or None]
    head = np.broadcast_to(np.frombuffer(framing, np.uint8), (count, len(framing)))
    return np.concatenate([head, values], axis=1).tobytes()
