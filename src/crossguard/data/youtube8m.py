"""YouTube-8M (Abu-El-Haija et al., arXiv 1609.08675) as it is shipped, as a stream.

Frame-level TFRecords: context `id` and `labels`, feature lists `rgb` (1024 bytes a second) and `audio` (128), at most
300 seconds; the third version adds labels of five-second segments. The stream holds no more than its shuffling buffer
in memory; `youtube8m_index.py` reads the same files by index, which is what recipes do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from crossguard.core.errors import DataError, RunError
from crossguard.core.random import bits, combine, text_key
from crossguard.data.faults import Bad, Faults
from crossguard.data.samples import Sample
from crossguard.data.tfrecord import Record, payload_at, records
from crossguard.data.youtube8m_examples import (
    CLASSES,
    MODALITIES,
    Example,
    ExampleError,
    Labels,
    examples,
    open_record,
    shards,
)


class YouTube8M(IterableDataset[Sample]):
    """The examples of all shards of a folder, one after the other, in constant memory.

    With `buffer` > 1 in an order that is a function of (seed, epoch): shards shuffled, then each example drawn from
    `buffer` of them. Rank r of `world`, and each worker of a DataLoader, reads its own share: shards where there are
    enough, records otherwise, so that all together yield every example exactly once. `bad`: examples that cannot be
    taken are an error, or noted in `faults`, counted and skipped. Raises DataError, naming file and offset.
    """

    def __init__(
        self,
        folder: str | Path,
        pattern: str = "train*.tfrecord",
        *,
        labels: Labels = "video",
        classes: int = CLASSES,
        bad: Bad = "error",
        buffer: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if buffer < 1 or not 0 <= rank < world:
            raise DataError(f"buffer is {buffer}, rank {rank} of {world}; expected buffer >= 1, 0 <= rank < world")
        self.shards = shards(Path(folder), pattern)
        self.labels: Labels = labels
        self.classes, self.bad, self.buffer, self.seed, self.rank, self.world = classes, bad, buffer, seed, rank, world
        self.modalities = MODALITIES
        self.epoch = 0
        self.faults = Faults()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Reading:
        return Reading(self)

    def resume(self, state: Mapping[str, Any]) -> Reading:
        """Go on where `Reading.state` was taken; raises RunError where that was of another stream or share."""
        return Reading(self, state)


class Reading(Iterator[Sample]):
    """One pass of a stream; `state()` says, at any time and in JSON, where it stands."""

    def __init__(self, stream: YouTube8M, state: Mapping[str, Any] | None = None) -> None:
        worker = get_worker_info()
        workers, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        self.stream = stream
        self.part, self.parts = stream.rank * workers + own, stream.world * workers
        self.epoch = stream.epoch if state is None else int(state["epoch"])
        self.key = combine(torch.tensor([text_key("youtube8m")]), stream.seed, self.epoch)
        order = list(range(len(stream.shards)))
        if stream.buffer > 1:
            order = bits(self.key, len(order))[0].argsort(stable=True).tolist()
        self.by_shard = len(order) >= self.parts
        self.order: list[int] = order[self.part :: self.parts] if self.by_shard else order
        # Where an example lies (shard, byte, number within its record), and the example.
        self.waiting: list[tuple[tuple[int, int, int], Example]] = []
        self.shard = self.offset = self.number = self.drawn = 0
        self.file: Iterator[Record] | None = None
        if state is not None:
            self._restore(state)

    def __next__(self) -> Sample:
        self._fill()
        if not self.waiting:
            raise StopIteration
        self.drawn += 1
        at = int(combine(self.key, self.drawn)) % len(self.waiting) if self.stream.buffer > 1 else 0
        _, example = self.waiting.pop(at)
        return example.sample(self.stream.classes)

    def _fill(self) -> None:
        """Read on until the buffer is full."""
        s = self.stream
        while len(self.waiting) < s.buffer and self.shard < len(self.order):
            place = self.order[self.shard]
            self.file = self.file or records(s.shards[place], self.offset)
            record = next(self.file, None)
            if record is not None:
                if self.by_shard or self.number % self.parts == self.part:
                    self._take(place, record)
                self.number += 1
                self.offset = record.end or 0
            if record is None or record.end is None:
                self.file, self.shard, self.offset = None, self.shard + 1, 0

    def _take(self, place: int, record: Record) -> None:
        s = self.stream
        try:
            found = open_record(s.shards[place], record, s.labels, s.classes)
        except ExampleError as fault:
            if s.bad == "error":
                raise
            s.faults.add(fault.kind, fault.what)
            return
        self.waiting += [((place, record.offset, which), example) for which, example in enumerate(found)]

    @cached_property
    def _same(self) -> dict[str, Any]:
        """What must be the same for a state to have a meaning."""
        s = self.stream
        options = {name: getattr(s, name) for name in ("seed", "buffer", "labels", "classes")}
        return {"part": self.part, "parts": self.parts, **options, "shards": [path.name for path in s.shards]}

    def state(self) -> dict[str, Any]:
        """Where this pass stands: what was read, what waits in the buffer."""
        now = {name: getattr(self, name) for name in ("epoch", "shard", "offset", "number", "drawn")}
        return {**now, "waiting": [list(item) for item, _ in self.waiting], "same": self._same}

    def _restore(self, state: Mapping[str, Any]) -> None:
        changed = [name for name, value in self._same.items() if state["same"].get(name) != value]
        if changed:
            raise RunError(f"the state is of a stream with another {', '.join(changed)}; make the stream as it was")
        self.shard, self.offset = state["shard"], state["offset"]
        self.number, self.drawn = state["number"], state["drawn"]
        s = self.stream
        for place, offset, which in state["waiting"]:
            found = examples(payload_at(s.shards[place], offset), s.labels, s.classes)
            self.waiting.append(((place, offset, which), found[which]))


__all__ = ["CLASSES", "MODALITIES", "Reading", "YouTube8M"]
