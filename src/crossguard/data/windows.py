"""An order that reads files front to back and mixes samples still: for disks that scattered reads slow down."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from crossguard.core.errors import DataError
from crossguard.core.random import bits, combine, text_key


@runtime_checkable
class InFiles(Protocol):
    """What a data set has besides where many samples lie in each file."""

    @property
    def files(self) -> Tensor:
        """(N,) the number of each sample's file; samples of a file stand in the order in which they lie there."""
        ...

    def fetch(self, index: Sequence[int]) -> None:
        """Read the stretches of the files that hold these samples, front to back, into the system's cache."""
        ...


@dataclass(frozen=True)
class Windows:
    """A data set that is read file after file, its samples mixed within windows of `size`."""

    dataset: InFiles
    size: int

    @classmethod
    def of(cls, dataset: object, size: int | None) -> Windows | None:
        """None without a size; raises DataError where the data set cannot be read so."""
        if size is None:
            return None
        if size < 1 or not isinstance(dataset, InFiles):
            raise DataError(
                f"found window {size} for data set {getattr(dataset, 'name', dataset)!r}; expected a whole number >= "
                f"1, and samples that lie in files one after another (youtube8m, moments); leave it out"
            )
        return cls(dataset, size)

    def order(self, *seeds: int) -> list[int]:
        """All samples: files in random order, samples of a file as they lie there, then shuffled within each window.

        A function of the seeds alone.
        """
        files = self.dataset.files

        def keys(purpose: str, count: int) -> Tensor:
            return bits(combine(torch.tensor([text_key(purpose)]), *seeds), count)[0]

        in_turn = keys("files", int(files.max()) + 1)[files].argsort(stable=True)
        mixed = keys("window", len(files)).argsort(stable=True)
        return in_turn[mixed[(mixed // self.size).argsort(stable=True)]].tolist()


class Ahead:
    """Has the files of a window read while the one before is trained on; `first` is where in the order it begins."""

    def __init__(self, windows: Windows, order: Sequence[int], first: int, pool: ThreadPoolExecutor) -> None:
        self.windows, self.order, self.pool = windows, order, pool
        self.next, self.reading = first // windows.size, dict[int, Future[None]]()

    def wait(self, end: int) -> None:
        """Until what lies before `end` in the order has been read; the window after it is begun."""
        size = self.windows.size
        last = (end - 1) // size
        while self.next <= last + 1:
            stretch = self.order[self.next * size : (self.next + 1) * size]
            self.reading[self.next] = self.pool.submit(self.windows.dataset.fetch, stretch)
            self.next += 1
        for number in [n for n in self.reading if n <= last]:
            self.reading.pop(number).result()
