"""Small files in the layout of YouTube-8M, with planted faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossguard.data.sequence_example import build
from crossguard.data.tfrecord import write_records


def codes(number: int, frames: int, width: int = 1024, audio: int = 128) -> dict[str, np.ndarray]:
    """Frame t of example `number` is the code number + t throughout."""
    level = (number + np.arange(frames)).astype(np.uint8)[:, None]
    return {"rgb": np.broadcast_to(level, (frames, width)), "audio": np.broadcast_to(level, (frames, audio))}


def payload(number: int, frames: int = 3, labels: Sequence[int] | None = None, width: int = 1024) -> bytes:
    """An example called v7, of class 7 where none is given."""
    context = {"id": f"v{number}".encode(), "labels": [number] if labels is None else labels}
    return build(context, codes(number, frames, width))


def write(folder: Path, name: str, numbers: Sequence[int], frames: int = 3) -> Path:
    """A shard of sound examples."""
    path = folder / name
    write_records(path, (payload(n, frames) for n in numbers))
    return path
