"""A log whose lines a resumed run does not repeat."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from crossguard.core.errors import RunError


class Log:
    """JSON lines at `path`; what stands behind byte `position` (written after the last checkpoint) is cut off."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path = path
        with self._explained():
            self._file: IO[bytes] = path.open("ab")
            self._file.truncate(min(position, path.stat().st_size))
            self._file.seek(0, os.SEEK_END)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"could not write {self._path}: {error.strerror or error}; the last checkpoint is untouched. "
                f"Free some space, then run the same command again"
            ) from error

    def write(self, line: Mapping[str, Any]) -> None:
        """One object, on disk at once for whoever follows the file."""
        with self._explained():
            self._file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
            self._file.flush()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Let go of the file; what a full disk still holds back was reported by `write`."""
        with suppress(OSError):
            self._file.close()
