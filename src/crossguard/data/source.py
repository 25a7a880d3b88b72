"""What the registry says of a data set, and what a look at its files finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crossguard.data.base import Splits


@dataclass(frozen=True)
class Check:
    """What is in a data set's folder: a table (`header`, `rows`), `notes` (normal gaps) and `problems` (file: what).

    `ok` says whether the reader would take it.
    """

    name: str
    path: Path | None
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class DataSource:
    """A data set by name: `load(...) -> Splits` is its entry point, whose annotated options a recipe gives.

    `layout` says which files it expects where, `needs` which extra of crossguard it is read with, and `look` is what
    `check` calls with the folder (None: generated, there is nothing to look at).
    """

    name: str
    load: Callable[..., Splits]
    summary: str
    origin: str
    licence: str
    layout: str
    needs: str | None = None
    look: Callable[[Path], Check] | None = None

    @property
    def needs_path(self) -> bool:
        """Whether `load` must be given a folder of files that the user has fetched."""
        path = inspect.signature(self.load).parameters.get("path")
        return path is not None and path.default is path.empty
