"""Whether a media file holds all that its container announces, told without decoding it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from crossguard.data.faults import SampleError

# Of Matroska (mkv, webm): its head, padding, and the element that holds all the rest.
_EBML, _VOID, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\xec", b"\x18\x53\x80\x67"
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes, at most


def check_whole(path: Path) -> None:
    """Raise SampleError where a media file cannot be read, or is shorter than its container says.

    Of avi, wav, mkv, webm, mp4 and mov every byte must be there that is announced, of ogg the page that ends it. What
    was written to a pipe announces nothing, and other kinds are not looked at.
    """
    try:
        with path.open("rb") as file:
            lacking = _lacking(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise SampleError("damaged", f"{path}: cannot be read ({error.strerror or error})") from error
    if lacking:
        raise SampleError("damaged", f"{path}: truncated, {lacking}; fetch it again")


def _lacking(file: BinaryIO, size: int) -> str:
    """What is missing at the end of a file of `size` bytes, in words; nothing where nothing is."""
    head = file.read(8)
    if head[:4] == b"OggS":
        return "" if _ogg_ends(file, size) else "its last page does not end the stream"
    if head[:4] == b"RIFF":
        announced = int.from_bytes(head[4:], "little") + 8
        announced = announced if announced < 0xFFFFFFFF else 0  # written to a pipe, its length was not known
    else:
        announced = _segment_end(file) if head[:4] == _EBML else _box_end(file, size)
    return f"{size} bytes found of {announced} that it announces" if size < announced else ""


def _ogg_ends(file: BinaryIO, size: int) -> bool:
    """Whether the last page is whole, and flagged as the end of its stream."""
    file.seek(max(0, size - _OGG_PAGE))
    page = file.read()
    page = page[page.rfind(b"OggS") :]
    return len(page) > 26 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _segment_end(file: BinaryIO) -> int:
    """The byte at which the segment of an mkv or webm ends; no later than the file's end where that is not said."""
    file.seek(0)
    name, length = _element(file)
    while name in (_EBML, _VOID):
        file.seek(length, os.SEEK_CUR)
        name, length = _element(file)
    return file.tell() + length if name == _SEGMENT else 0


def _element(file: BinaryIO) -> tuple[bytes, int]:
    """Name and length of the Matroska element that begins here; 0 for a length that is not known."""

    def number() -> bytes:
        first = file.read(1)
        return first + file.read(8 - (first[0] or 1).bit_length()) if first else b""

    name, length = number(), number()
    most = (1 << 7 * len(length)) - 1  # all bits set: not known
    return name, (int.from_bytes(length, "big") & most) % most if length else 0


def _box_end(file: BinaryIO, size: int) -> int:
    """Where the first box of an mp4 or mov, of media or their index, would end that the file does not hold; else 0."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[8:] if head[:4] == b"\0\0\0\1" else head[:4], "big")
        # Other names may be no boxes, but what a camera wrote behind the last one.
        if head[4:8] in (b"moov", b"moof", b"mdat") and start + length > size:
            return start + length
        if length < 8:  # 0: up to the end of the file
            break
        start += length
    return 0
