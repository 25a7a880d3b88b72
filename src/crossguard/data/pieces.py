"""Decoded pieces of media, an array a file, kept in the cache and mapped into memory: a set need not fit into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossguard.core.files import write_atomic
from crossguard.data.cache import cache_folder


def piece(
    file: Path, options: Mapping[str, Any], build: Callable[[], NDArray[Any]], cache: Path | None = None
) -> NDArray[Any]:
    """What `build` makes of `file`, kept under its place, size and time (of a folder, those of the files in it) and the
    `options`; mapped once it is kept.

    Written whole or not at all; two that build at once write the same. A damaged piece is built anew. Raises what
    `build` raises, and RunError where the cache cannot be written.
    """
    stat = file.stat()
    seen = inside(file) if file.is_dir() else [stat.st_size, stat.st_mtime_ns]
    text = json.dumps([str(file.resolve()), *seen, options], sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    kept = (cache or cache_folder()) / "pieces" / name[:2] / f"{name}.npy"
    found = _mapped(kept)
    if found is not None:
        return found
    made = build()
    write_atomic(kept, lambda stream: np.save(stream, made, allow_pickle=False))
    return made


def inside(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file in a folder, whose own time says nothing of a file that is written anew."""
    with os.scandir(folder) as found:
        stats = [(entry.name, entry.stat()) for entry in found if entry.is_file()]
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _mapped(kept: Path) -> NDArray[Any] | None:
    try:
        return np.load(kept, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, cut off, or no array
        return None
