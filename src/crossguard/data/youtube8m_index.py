"""YouTube-8M by index: where every example lies, found once and kept, so that samples are read in any order.

So it goes through the same loader, training and evaluation as any other set: the order is a function of (seed, epoch),
ranks share samples out, a run goes on in mid-epoch. Each shard is read once, whole: afterwards every example that
cannot be taken is known, and what is kept is 50 bytes an example.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from crossguard.core.batch import Batch
from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.core.random import text_key
from crossguard.data.base import Splits
from crossguard.data.cache import cache_key, load_or_build
from crossguard.data.faults import Bad, Faults
from crossguard.data.lists import open_list
from crossguard.data.samples import Sample, stack
from crossguard.data.source import Check
from crossguard.data.tfrecord import payload_at, records
from crossguard.data.youtube8m_examples import CLASSES, MODALITIES, ExampleError, Labels, examples, open_record, shards

LAYOUT = """\
train*.tfrecord      frame-level examples as shipped: id, labels, rgb (1024 bytes a second), audio (128)
validate*.tfrecord   the same; what is tested on, since the labels of the official test set are not public
vocabulary.csv       optional: the columns Index and Name of the classes (without it: 3862 numbers)"""

_VERSION = 1
_THREADS = min(8, os.cpu_count() or 1)
_PIECE = 1 << 22  # bytes read at once, so that a disk goes on where it is


@dataclass(frozen=True, eq=False)
class Indexed:
    """Examples by index, each read from its shard with its checksum; batches padded to the longest, with masks.

    `place` (N, 3) is each one's shard, byte and number within its record, `frames` (N,) its length. `targets` is sparse
    (N, C): of the full set, dense ones would take 60 GB. Those of a batch are dense. `coded` says that values are those
    of 256 codes, so that no value can lie outside the modality's bounds.
    """

    name: str
    classes: tuple[str, ...]
    shards: tuple[Path, ...]
    labels: Labels
    place: NDArray[np.int64]
    frames: NDArray[np.int64]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    targets: Tensor
    coded: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modalities(self) -> dict[str, Modality]:
        """What the inputs are."""
        return dict(MODALITIES)

    @property
    def files(self) -> Tensor:
        """(N,) the shard of each sample."""
        return torch.from_numpy(self.place[:, 0])

    def fetch(self, index: Sequence[int]) -> None:
        """See `InFiles`; a shard that cannot be read is left to `read`, which names it."""
        rows = self.place[np.asarray(index, dtype=np.int64)]
        for shard in np.unique(rows[:, 0]):
            offsets = rows[rows[:, 0] == shard, 1]
            with suppress(OSError), self.shards[shard].open("rb", buffering=0) as file:
                file.seek(int(offsets.min()))
                while file.tell() < int(offsets.max()) and file.read(_PIECE):
                    pass

    def read(self, index: Sequence[int]) -> Batch:
        """The samples at `index`, in that order."""
        count = len(self.classes)

        def one(i: int) -> Sample:
            shard, offset, which = self.place[i].tolist()
            found = examples(payload_at(self.shards[shard], offset), self.labels, count)[which]
            return found.sample(count)

        with ThreadPoolExecutor(_THREADS) as pool:
            return stack(list(pool.map(one, index)), MODALITIES)

    def subset(self, index: Sequence[int]) -> Indexed:
        """The samples at `index` as a data set of their own."""
        rows = np.asarray(index, dtype=np.int64)
        return replace(
            self,
            place=self.place[rows],
            frames=self.frames[rows],
            ids=tuple(self.ids[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            targets=self.targets.index_select(0, torch.from_numpy(rows)),
        )


def youtube8m(
    path: Path,
    *,
    labels: Labels = "video",
    train: str = "train*.tfrecord",
    test: str = "validate*.tfrecord",
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    bad: Bad = "error",
    cache: Path | None = None,
) -> Splits:
    """YouTube-8M in a folder, as shipped: `rgb` (N, T, 1024) and `audio` (N, T, 128), de-quantised, one frame a second.

    `labels`: of the video, or of `segments` of five seconds, each a sample of its own (classes that nobody rated count
    as absent). `train` and `test` are patterns of file names; of the training videos the share `validation` is held
    out. Groups are videos. `bad`: examples that cannot be taken (damaged, truncated, of another width, without a frame,
    with more than 300, without a label or with one outside the vocabulary) are an error, or counted and left out.
    Raises DataError, naming file and byte, and where a folder has no shard.
    """
    classes = vocabulary(path)
    training = index(path, train, classes, labels=labels, bad=bad, cache=cache)
    kept, held = _hold_out(training.groups, validation)
    testing = index(path, test, classes, labels=labels, bad=bad, cache=cache)
    return Splits(training.subset(kept), training.subset(held), testing)


def vocabulary(path: Path) -> tuple[str, ...]:
    """The names in vocabulary.csv by their Index, a blank or repeated one with its number; numbers where there is no
    such file. Raises DataError where it has other columns or lacks a class."""
    file = path / "vocabulary.csv"
    if not file.exists():
        return tuple(str(i) for i in range(CLASSES))
    with open_list(file, f"expected:\n{LAYOUT}") as stream:
        lines = list(csv.DictReader(stream, strict=True))
    found = {line.get("Index"): line.get("Name") for line in lines}
    if not lines or set(found) != {str(i) for i in range(len(lines))} or None in found.values():
        raise DataError(f"{file}: expected columns Index (0, 1, …) and Name, each class once")
    names = [(found[str(i)] or "").strip() for i in range(len(lines))]
    # 56 of the official classes have no name. No two numbered names are alike, and a name like one of them counts as
    # repeated.
    numbered = [f"{name or 'class'} {i}" for i, name in enumerate(names)]
    times = Counter(names + numbered)
    return tuple(name if name and times[name] == 1 else other for name, other in zip(names, numbered, strict=True))


def index(
    path: Path, pattern: str, classes: Sequence[str], *, labels: Labels = "video", bad: Bad = "error",
    cache: Path | None = None,
) -> Indexed:  # fmt: skip
    """The examples of a folder's shards; raises DataError for what cannot be taken unless it is to be skipped."""
    files = shards(path, pattern)
    faults = Faults()
    found = _indices(files, labels, len(classes), cache, faults)
    faults.settle(f"{path}/{pattern}", bad)
    ids: list[str] = np.concatenate([one["id"] for one in found]).tolist()
    if repeated := _repeated(ids):
        raise DataError(f"{path}/{pattern}: {repeated}")
    if not ids:
        raise DataError(f"{path}/{pattern}: {len(files)} shards hold no example that can be taken\n{faults}")
    shard = np.repeat(np.arange(len(files)), [len(one["id"]) for one in found])
    offset, which, frames, count, label = (
        np.concatenate([one[key] for one in found]) for key in ("offset", "which", "frames", "count", "label")
    )
    where = np.stack([np.repeat(np.arange(len(ids)), count), label])
    targets = torch.sparse_coo_tensor(
        torch.from_numpy(where), torch.ones(len(label)), (len(ids), len(classes)), check_invariants=False
    ).coalesce()
    groups = tuple(np.concatenate([one["group"] for one in found]).tolist())
    place = np.stack([shard, offset, which], axis=1)
    return Indexed("youtube8m", tuple(classes), tuple(files), labels, place, frames, tuple(ids), groups, targets)


def _repeated(ids: Iterable[str]) -> str:
    """What is to be said of ids that occur more than once; nothing where none does."""
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    return f"the id {repeated[0]!r} occurs twice ({len(repeated)} such); is a shard there twice?" if repeated else ""


def _indices(
    files: Sequence[Path], labels: Labels, classes: int, cache: Path | None, faults: Faults
) -> list[dict[str, NDArray[Any]]]:
    """What `_scan` finds in each shard, a thread a core; kept by shard, so that a stopped scan goes on."""

    def one(file: Path) -> dict[str, NDArray[Any]]:
        options = {"path": str(file.resolve()), "labels": labels, "classes": classes}
        key = cache_key("youtube8m", options, _VERSION, [file])
        return load_or_build(key, lambda: _scan(file, labels, classes), cache)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(one, files))
    for shard in found:
        for fault in shard["fault"].tolist():
            kind, _, what = fault.partition("|")
            faults.add(kind, what)
    return found


def _scan(file: Path, labels: Labels, classes: int) -> dict[str, NDArray[Any]]:
    """Where the examples of a shard lie and what they are of, and what cannot be taken."""
    rows: list[tuple[int, int, int, str, str, int]] = []
    label: list[int] = []
    fault: list[str] = []
    for record in records(file):
        try:
            for which, example in enumerate(open_record(file, record, labels, classes)):
                length = example.stop - example.start
                rows.append((record.offset, which, length, example.id, example.group, len(example.labels)))
                label += example.labels
        except ExampleError as problem:
            fault.append(f"{problem.kind}|{problem.what}")
    columns = list(zip(*rows, strict=True)) or [()] * 6
    kinds = (np.int64, np.int64, np.int64, np.str_, np.str_, np.int64)
    names = ("offset", "which", "frames", "id", "group", "count")
    found = {name: np.array(column, kind) for name, column, kind in zip(names, columns, kinds, strict=True)}
    return {**found, "label": np.array(label, np.int64), "fault": np.array(fault, np.str_)}


def _hold_out(groups: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """`base.hold_out` for millions of groups: the same promise, a hash a group."""
    keys = np.array([text_key(group) for group in groups])
    _, rank = np.unique(keys, return_inverse=True)
    videos = int(rank.max()) + 1
    wanted = max(1, round(videos * share))
    if wanted >= videos:
        raise DataError(f"cannot hold out {wanted} of {videos} training videos: at least one must stay")
    return np.flatnonzero(rank >= wanted).tolist(), np.flatnonzero(rank < wanted).tolist()


def look(path: Path) -> Check:
    """Read every shard: examples, frames and labels by file, and what is wrong with any."""
    classes = len(vocabulary(path))
    files = shards(path, "*.tfrecord")
    faults = Faults()
    found = _indices(files, "video", classes, None, faults)
    problems = [f"{kind}: {what}" for kind, named in faults.found.items() for what in named]
    rows: list[tuple[str, ...]] = []
    for kind in ("train", "validate", "test", "other"):
        mine = [one for file, one in zip(files, found, strict=True) if _kind(file) == kind]
        examples_ = sum(len(one["id"]) for one in mine)
        if not examples_ and kind in ("train", "validate"):
            problems.append(f"{path}/{kind}*.tfrecord: no example that can be taken")
        if mine:
            counts = [sum(int(one[key].sum()) for one in mine) for key in ("frames", "count")]
            rows.append((kind, str(len(mine)), str(examples_), *map(str, counts)))
    if repeated := _repeated(name for one in found for name in one["id"].tolist()):
        problems.append(f"{path}: {repeated}")
    return Check("youtube8m", path, ("kind", "shards", "examples", "frames", "labels"), tuple(rows),
                 (f"{classes} classes",), tuple(problems))  # fmt: skip


def _kind(file: Path) -> str:
    return next((kind for kind in ("train", "validate", "test") if file.name.startswith(kind)), "other")
