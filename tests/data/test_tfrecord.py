"""Framing, checksums and messages: against known values, TensorFlow's own files, and planted damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from crossguard.core import DataError
from crossguard.data import crc32c as crc_module
from crossguard.data.crc32c import crc32c, portable
from crossguard.data.sequence_example import build, frames, parse
from crossguard.data.tfrecord import masked, payload_at, records, write_records


@pytest.mark.parametrize("function", [portable, crc32c])
def test_checksums_that_the_standard_prints(function: type[portable]) -> None:
    # RFC 3720, B.4; the last is the catalogue's check value.
    assert function(bytes(32)) == 0x8A9136AA
    assert function(b"\xff" * 32) == 0x62A8AB43
    assert function(bytes(range(32))) == 0x46DD794E
    assert function(bytes(reversed(range(32)))) == 0x113FDB5C
    assert function(b"123456789") == 0xE3069283


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2**12))
def test_the_portable_checksum_is_the_bytewise_one(data: bytes, more: int) -> None:
    data += bytes(more)
    assert portable(data) == crc_module._bytewise(data)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    payloads = [b"", b"a", bytes(range(256)) * 40]
    write_records(tmp_path / "x", payloads)
    found = list(records(tmp_path / "x"))
    assert [r.payload for r in found] == payloads
    assert [r.offset for r in found] == [0, 16, 33]
    assert payload_at(tmp_path / "x", 33) == payloads[2]
    assert [r.payload for r in records(tmp_path / "x", 16)] == payloads[1:]


def test_damage_is_told_from_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_records(path, [b"first", b"second", b"third"])
    whole = path.read_bytes()

    def problems(data: bytes) -> list[tuple[int, str | None]]:
        path.write_bytes(data)
        return [(r.offset, r.problem and r.problem[:12]) for r in records(path)]

    flipped = whole[:34] + bytes([whole[34] ^ 1]) + whole[35:]  # in the payload of the second
    assert problems(flipped) == [(0, None), (21, "corrupt: its"), (43, None)]
    length = whole[:22] + b"\x01" + whole[23:]
    assert problems(length) == [(0, None), (21, "corrupt: the")]
    assert problems(whole[:-1]) == [(0, None), (21, None), (43, "truncated: 8")]
    assert problems(whole[:50]) == [(0, None), (21, None), (43, "truncated: t")]
    with pytest.raises(DataError, match="byte 43: truncated"):
        payload_at(path, 43)
    with pytest.raises(DataError, match="cannot be read"):
        list(records(tmp_path))


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_records(path, [b"some payload"])
    whole = path.read_bytes()
    for place in range(len(whole) * 8):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        assert next(records(path)).problem is not None


def test_a_sequence_example_there_and_back() -> None:
    table = np.arange(60, dtype=np.uint8).reshape(20, 3)
    data = build({"id": b"abcd", "labels": [0, 5, 3861, -1]}, {"rgb": table, "none": table[:0]})
    context, lists = parse(data)
    assert context["id"] == [b"abcd"]
    assert list(context["labels"]) == [0, 5, 3861, -1]
    assert_array_equal(frames(data, lists["rgb"]), table)
    assert frames(data, lists["none"]).shape == (0, 0)


@pytest.mark.parametrize("width", [0, 1, 127, 128, 1024, 20000])
def test_frames_of_any_width(width: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, (7, width), dtype=np.uint8)
    data = build({}, {"x": table})
    assert_array_equal(frames(data, parse(data)[1]["x"]), table)


def test_frames_of_different_widths_are_refused() -> None:
    one, two = (build({}, {"x": np.zeros((2, w), np.uint8)}) for w in (8, 9))
    (a, b), (c, d) = parse(one)[1]["x"], parse(two)[1]["x"]
    with pytest.raises(DataError, match="frames of 8 to 9 bytes"):
        frames(one[a:b] + two[c:d], (0, b - a + d - c))


def test_numbers_are_read_packed_or_not() -> None:
    # Feature {int64_list: [5, 300]} and {float_list: [0.5, -2]}, every value with a tag of its own.
    loose = b"\x1a\x05\x08\x05\x08\xac\x02"
    floats = b"\x12\x0a\x0d\x00\x00\x00\x3f\x0d\x00\x00\x00\xc0"
    packed = b"\x12\x0a\x0a\x08\x00\x00\x00\x3f\x00\x00\x00\xc0"
    entry = [b"\x0a" + bytes([len(x) + 5]) + b"\x0a\x01" + k + b"\x12" + bytes([len(x)]) + x
             for k, x in ((b"a", loose), (b"b", floats), (b"c", packed), (b"d", b"\x1a\x00"))]  # fmt: skip
    features = b"".join(entry)
    context, lists = parse(b"\x0a" + bytes([len(features)]) + features)
    assert not lists
    assert list(context["a"]) == [5, 300]
    assert list(context["b"]) == list(context["c"]) == [0.5, -2]
    assert len(context["d"]) == 0


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    whole = build({"labels": [-1]}, {})
    assert whole.count(b"\xff" * 9 + b"\x01") == 1
    with pytest.raises(DataError, match="no SequenceExample: a number of more than 64 bits"):
        parse(whole.replace(b"\xff\x01", b"\xff\x7f"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 10**6))
def test_anything_is_read_or_refused(noise: bytes, place: int) -> None:
    data = build({"id": b"abcd", "labels": [1, 2]}, {"rgb": np.zeros((2, 5), np.uint8)})
    place %= len(data)
    for damaged in (noise, data[:place] + noise + data[place + len(noise) :], data[:place]):
        try:
            _, lists = parse(damaged)
            for span in lists.values():
                frames(damaged, span)
        except DataError:
            pass


@pytest.mark.parametrize("name", ["real0000.tfrecord", "made0000.tfrecord"])
def test_what_tensorflow_wrote_is_read_and_written_to_the_same_bytes(
    shared_data: Path, name: str, tmp_path: Path
) -> None:
    path = shared_data / "yt8m" / name
    again: list[bytes] = []
    for record in records(path):
        assert record.problem is None
        context, lists = parse(record.payload)
        values = {k: x[0] if isinstance(x, list) else x.tolist() for k, x in context.items()}
        tables = {k: frames(record.payload, span) for k, span in lists.items()}
        # A map has no order, and TensorFlow wrote some in one, some in the other.
        orders = [build(dict(sorted(values.items(), reverse=r)), dict(sorted(tables.items(), reverse=q)))
                  for r in (False, True) for q in (False, True)]  # fmt: skip
        assert record.payload in orders
        again.append(record.payload)
    write_records(tmp_path / name, again)
    assert (tmp_path / name).read_bytes() == path.read_bytes()
    assert masked(b"") == 0xA282EAD8
