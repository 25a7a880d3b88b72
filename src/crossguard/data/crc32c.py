"""CRC32C (Castagnoli), the checksum of TFRecord files: by google-crc32c where that is installed, else by NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

try:
    from google_crc32c import value as _quick
except ImportError:
    _quick = None

Words = NDArray[np.uint32]

_POLYNOMIAL = np.uint32(0x82F63B78)  # bits reversed, as all here


def crc32c(data: bytes) -> int:
    """The checksum of some bytes."""
    return portable(data) if _quick is None else _quick(data)


def portable(data: bytes) -> int:
    """The same without any package: neighbouring words are joined two by two, in a vector at a time.

    A checksum is linear over bits: that of a message is the sum (exclusive or) of the checksums of its halves, the
    first moved on by the length of the second. Zeros in front change nothing of a register that starts at zero.
    """
    if len(data) < 16:  # where vectors only cost
        return _bytewise(data)
    filler = -len(data) % 4
    raw = np.zeros(filler + len(data), np.uint8)
    raw[filler:] = np.frombuffer(data, np.uint8)
    raw[filler : filler + 4] ^= 0xFF
    words = raw.view("<u4").astype(np.uint32, copy=False)
    level = 0
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, np.uint32), words])
        words = _move(words[::2], level) ^ words[1::2]
        level += 1
    return int(_move(words, 0)[0]) ^ 0xFFFFFFFF


def _bytewise(data: bytes) -> int:
    register, table = 0xFFFFFFFF, _one_byte()
    for byte in data:
        register = int(table[(register ^ byte) & 0xFF]) ^ register >> 8
    return register ^ 0xFFFFFFFF


def _move(words: Words, level: int) -> Words:
    """Registers after 4 x 2^level zero bytes."""
    low, high = _tables(level)
    return low[words & 0xFFFF] ^ high[words >> 16]


@cache
def _one_byte() -> Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1 ^ (table & 1) * _POLYNOMIAL).astype(np.uint32)
    return table


@cache
def _basis(level: int) -> Words:
    """(32,) what `_move` makes of each single bit."""
    if level:
        return _move(_basis(level - 1), level - 1)
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(4):
        bits = (_one_byte()[bits & 0xFF] ^ bits >> 8).astype(np.uint32)
    return bits


@cache
def _tables(level: int) -> tuple[Words, Words]:
    """What `_move` makes of every lower and every upper half of a word."""
    low, high = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    for bit in _basis(level)[:16]:
        low = np.concatenate([low, low ^ bit])
    for bit in _basis(level)[16:]:
        high = np.concatenate([high, high ^ bit])
    return low, high
