"""What one record of YouTube-8M says: a video, or its rated segments, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.data.samples import Sample
from crossguard.data.sequence_example import Value, frames, parse
from crossguard.data.tfrecord import Record
from crossguard.threat import YOUTUBE8M

CLASSES = 3862
MOST_FRAMES = 300
MODALITIES = {
    name: Modality(name, "NTD", "feature", bounds=(YOUTUBE8M.low, YOUTUBE8M.high), rate=1.0)
    for name in ("rgb", "audio")
}
WIDTHS = {"rgb": 1024, "audio": 128}
Labels: TypeAlias = Literal["video", "segments"]

# What two neighbouring codes stand for, float32 each, by the two bytes as one number: half as many look-ups.
_PAIRS = YOUTUBE8M.decode(torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).astype(np.int64))).view(
    torch.float64
)


class ExampleError(DataError):
    """An example that cannot be taken: its kind, and what was found and expected."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind, self.what = kind, what


@dataclass(frozen=True)
class Example:
    """A video or a segment of one: seconds `start` to `stop` of `codes`, and the numbers of its classes."""

    id: str
    group: str
    labels: tuple[int, ...]
    codes: Mapping[str, NDArray[np.uint8]]
    start: int
    stop: int

    def sample(self, classes: int) -> Sample:
        """De-quantised, with targets (classes,) of zeros and ones."""
        targets = torch.zeros(classes)
        targets[list(self.labels)] = 1
        inputs = {m: dequantised(q[self.start : self.stop]) for m, q in self.codes.items()}
        return Sample(self.id, inputs, targets, self.group)


def dequantised(codes: NDArray[np.uint8]) -> Tensor:
    """(T, D) codes, D even, as float32: q stands for 4 q / 255 + 4 / 512 - 2, rounded once."""
    pairs = torch.from_numpy(np.ascontiguousarray(codes).view(np.uint16).astype(np.int32)).view(-1)
    return _PAIRS.index_select(0, pairs).view(torch.float32).view(codes.shape)


def examples(payload: bytes, labels: Labels, classes: int) -> list[Example]:
    """What one record says: a video, or its rated segments; raises ExampleError where it cannot be taken."""
    try:
        context, lists = parse(payload)
        codes = {m: frames(payload, lists.get(m, (0, 0))) for m in WIDTHS}
    except DataError as error:
        raise ExampleError("damaged", str(error)) from error
    name = _name(context)
    for m, width in WIDTHS.items():
        count, found = codes[m].shape
        if count == 0:
            raise ExampleError("empty video", f"{name}: no frame of {m}")
        if found != width:
            raise ExampleError("wrong width", f"{name}: {m} has {found} values a frame, expected {width}")
        if count > MOST_FRAMES:
            raise ExampleError("too long", f"{name}: {count} frames of {m}, expected at most {MOST_FRAMES}")
    length = len(codes["rgb"])
    if len(codes["audio"]) != length:
        raise ExampleError("other length", f"{name}: {length} frames of rgb and {len(codes['audio'])} of audio")
    if labels == "segments":
        return _segments(name, context, codes, classes)
    return [Example(name, name, _known(name, _numbers(name, context, "labels"), classes), codes, 0, length)]


def _name(context: Mapping[str, Value]) -> str:
    found = context.get("id", context.get("video_id", []))
    if not isinstance(found, list) or len(found) != 1:
        raise ExampleError("damaged", "an example without an id")
    return found[0].decode("utf-8", "replace")


def _numbers(name: str, context: Mapping[str, Value], key: str) -> NDArray[Any]:
    found = context.get(key, np.zeros(0, np.int64))
    if isinstance(found, list):
        if found:
            raise ExampleError("damaged", f"{name}: {key} are strings, expected numbers")
        return np.zeros(0, np.int64)
    return found


def _known(name: str, numbers: NDArray[Any], classes: int) -> tuple[int, ...]:
    found = tuple(dict.fromkeys(numbers.tolist()))
    if not found:
        raise ExampleError("no label", f"{name}: no class is named")
    outside = [label for label in found if not 0 <= label < classes]
    if outside:
        raise ExampleError("unknown label", f"{name}: class {outside[0]}, expected 0 to {classes - 1}")
    return found


def _segments(
    name: str, context: Mapping[str, Value], codes: Mapping[str, NDArray[np.uint8]], classes: int
) -> list[Example]:
    """An example a rated segment; its classes are those rated at least 1/2 (none, where all ratings say no)."""
    start, stop, label, score = (
        _numbers(name, context, f"segment_{key}") for key in ("start_times", "end_times", "labels", "scores")
    )
    if not len(start):
        raise ExampleError("no label", f"{name}: no segment is rated")
    if not len(start) == len(stop) == len(label) == len(score):
        raise ExampleError("damaged", f"{name}: {len(start)} segments, {len(label)} labels, {len(score)} scores")
    if not np.isfinite(score).all():
        raise ExampleError("not finite", f"{name}: a segment's score is NaN or Inf")
    _known(name, label, classes)
    length = len(codes["rgb"])
    found: list[Example] = []
    for a, b in sorted(set(zip(start.tolist(), stop.tolist(), strict=True))):
        if not 0 <= a < b <= length:
            raise ExampleError("damaged", f"{name}: a segment of seconds {a} to {b} of {length}")
        rated = label[(start == a) & (stop == b) & (score >= 0.5)]
        found.append(Example(f"{name}:{a}", name, tuple(dict.fromkeys(rated.tolist())), codes, a, b))
    return found


def shards(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder, sorted; raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with {pattern}")
    found = sorted(folder.glob(pattern))
    if not found:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:4]) or "nothing"
        raise DataError(f"{folder}: no shard is called {pattern}; there: {there}")
    return found


def open_record(path: Path, record: Record, labels: Labels, classes: int) -> list[Example]:
    """The examples of a record; raises ExampleError that names file and offset."""
    where = f"{path}, byte {record.offset}"
    if record.problem is not None:
        raise ExampleError(record.problem.partition(":")[0], f"{where}: {record.problem}")
    try:
        return examples(record.payload, labels, classes)
    except ExampleError as fault:
        raise ExampleError(fault.kind, f"{where}: {fault.what}") from fault
