"""An order that reads files front to back and mixes samples still: for disks that scattered reads slow down."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


def in_files(dataset: object, window: int | None) -> InFiles | None:
    """The data set where it is to be read in windows, else None; raises DataError where it cannot be."""
    if window is None:
        return None
    if window < 1 or not isinstance(dataset, InFiles):
        raise DataError(
            f"found window {window} for data set {getattr(dataset, 'name', dataset)!r}; expected a whole number >= 1, "
            f"and samples that lie in files one after another (youtube8m, moments); leave it out"
        )
    return dataset


def windowed(files: Tensor, window: int, *seeds: int) -> list[int]:
    """All samples: files in random order, samples of a file as they lie there, then shuffled within windows of so many.

    A function of the seeds alone, as a buffer of `window` samples would mix them.
    """

    def keys(purpose: str, count: int) -> Tensor:
        return bits(combine(torch.tensor([text_key(purpose)]), *seeds), count)[0]

    in_turn = keys("files", int(files.max()) + 1)[files].argsort(stable=True)
    mixed = keys("window", len(files)).argsort(stable=True)
    return in_turn[mixed[(mixed // window).argsort(stable=True)]].tolist()


class Ahead:
    """Has the files of a window read while the one before is trained on."""

    def __init__(
        self, dataset: InFiles, order: Sequence[int], window: int, first: int, pool: ThreadPoolExecutor
    ) -> None:
        self.dataset, self.order, self.window, self.pool = dataset, order, window, pool
        self.next, self.reading = first // window, dict[int, Future[None]]()

    def wait(self, end: int) -> None:
        """Until what lies before `end` in the order has been read; the window after it is begun."""
        last = (end - 1) // self.window
        while self.next <= last + 1:
            stretch = self.order[self.next * self.window : (self.next + 1) * self.window]
            self.reading[self.next] = self.pool.submit(self.dataset.fetch, stretch)
            self.next += 1
        for number in [n for n in self.reading if n <= last]:
            self.reading.pop(number).result()
