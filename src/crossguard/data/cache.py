"""What is slow to build, kept in a folder: built once, however many processes ask; arrays are rebuilt if damaged."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from crossguard.core.errors import RunError
from crossguard.core.files import read_npz, write_npz


def cache_folder() -> Path:
    """The folder named by CROSSGUARD_CACHE, else ~/.cache/crossguard."""
    named = os.environ.get("CROSSGUARD_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "crossguard"


def cache_key(name: str, options: Mapping[str, Any], version: int, files: Iterable[Path] = ()) -> str:
    """`name` and a hash of the options (JSON), the builder's version, and each source file's name, size and mtime, in
    their order, which may be that of the arrays."""
    stats = [(path.name, path.stat()) for path in files]
    sources = [(f, s.st_size, s.st_mtime_ns) for f, s in stats]
    text = json.dumps([options, version, sources], sort_keys=True)
    return f"{name}-{hashlib.blake2b(text.encode(), digest_size=10).hexdigest()}"


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock on `path`; the kernel lets go of it when the holder ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise RunError(
            f"could not write the cache folder {path.parent}: {error.strerror or error}; name another one by the "
            f"environment variable CROSSGUARD_CACHE"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load_or_build(
    key: str, build: Callable[[], Mapping[str, NDArray[Any]]], folder: Path | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays kept under `key` in `folder` (None: `cache_folder()`), built and written first where they are not.

    A damaged file is built anew. Where several processes ask at once, one builds and the others wait for it. Raises
    RunError where the folder cannot be written.
    """
    path = (folder or cache_folder()) / f"{key}.npz"
    # A reader needs no lock: a file appears whole or not at all.
    kept = _read(path)
    if kept is not None:
        return kept
    with _locked(path.with_suffix(".lock")):
        kept = _read(path)
        if kept is None:
            kept = dict(build())
            write_npz(path, kept)
        return kept


def folder_or_build(key: str, build: Callable[[Path], object], folder: Path | None = None) -> Path:
    """The folder kept under `key` in `folder` (None: `cache_folder()`), filled by `build` first where there is none.

    It appears whole or not at all; where several processes ask at once, one builds and the others wait for it. Raises
    RunError where the cache cannot be written.
    """
    path = (folder or cache_folder()) / key
    if path.is_dir():
        return path
    with _locked(path.with_suffix(".lock")):
        if not path.is_dir():
            # Half of what a killed process built is in the way of nobody, and the next build removes it.
            unfinished = path.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(path)
    return path


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    if not path.exists():
        return None
    try:
        return read_npz(path)
    except RunError:
        return None
