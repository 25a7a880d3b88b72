"""A data set of files: each sample has a file (or none) a modality, read when it is asked for.

Every file is read once when the set is opened, so that what cannot be taken is known before any work starts; what was
found is kept in the cache until a file changes (a file that the system refused is tried again every time).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossguard.core.batch import Batch
from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.data.cache import cache_key, load_or_build
from crossguard.data.decoders import DECODERS, Decoder
from crossguard.data.faults import Faults, SampleError
from crossguard.data.pieces import inside
from crossguard.data.samples import Sample, stack
from crossguard.data.sampling import PackageError

_VERSION = 2


@dataclass(frozen=True)
class File:
    """Where one modality of one sample lies: a path, the array's name within it, and its length if that is known."""

    path: Path
    part: str | None = None
    length: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.part is None else f"{self.path}#{self.part}"


@dataclass(frozen=True)
class Row:
    """One sample: its files by modality (a modality that is not named is absent) and its classes' names."""

    id: str
    group: str
    labels: tuple[str, ...]
    files: Mapping[str, File]


@dataclass(frozen=True, eq=False)
class Recordings:
    """Samples that are read from files by index, with masks; `shapes` are those of one frame, for what is absent.

    `ids` are unique, `targets` (N,) int64, or (N, C) of zeros and ones where `multi_label`. Raises DataError where
    there is no row.
    """

    name: str
    modalities: dict[str, Modality]
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    shapes: Mapping[str, tuple[int, ...]]
    multi_label: bool = False
    decoders: Mapping[str, Decoder] = field(default_factory=lambda: DECODERS)
    ids: tuple[str, ...] = field(init=False)
    groups: tuple[str, ...] = field(init=False)
    targets: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError(f"data set {self.name!r} is empty; expected at least one sample")
        number = {name: i for i, name in enumerate(self.classes)}
        targets = torch.tensor([number[row.labels[0]] for row in self.rows])
        if self.multi_label:
            targets = torch.zeros(len(self.rows), len(self.classes))
            for one, row in zip(targets, self.rows, strict=True):
                one[[number[label] for label in row.labels]] = 1
        object.__setattr__(self, "ids", tuple(row.id for row in self.rows))
        object.__setattr__(self, "groups", tuple(row.group for row in self.rows))
        object.__setattr__(self, "targets", targets)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: Sequence[int]) -> Batch:
        """The samples at `index`, padded to the longest of them, with masks."""
        return stack([self.sample(i) for i in index], self.modalities)

    def sample(self, i: int) -> Sample:
        """One sample, of its own length."""
        row = self.rows[i]
        inputs: dict[str, Tensor] = {}
        for name in self.modalities:
            file = row.files.get(name)
            inputs[name] = torch.zeros(self.shapes[name]) if file is None else _read(file, self.decoders)
        return Sample(row.id, inputs, self.targets[i], row.group, frozenset(self.modalities) - set(row.files))

    def subset(self, index: Sequence[int]) -> Recordings:
        """The samples at `index` as a data set of their own; raises DataError where there are none."""
        return replace(self, rows=tuple(self.rows[i] for i in index))


def _decoder(file: File, decoders: Mapping[str, Decoder]) -> Decoder:
    # A folder has no suffix, whatever its name; a video has a track that is read otherwise.
    suffix = "" if file.path.is_dir() else file.path.suffix.lower()
    found = decoders.get(f"{suffix}#{file.part}", decoders.get(suffix))
    if found is None:
        known = ", ".join(s or "a folder" for s in decoders)
        raise DataError(f"{file}: no reader for {file.path.suffix or 'a folder'!r}; known: {known}")
    return found


def _read(file: File, decoders: Mapping[str, Decoder]) -> Tensor:
    return _decoder(file, decoders).read(file.path, file.part)


def open_recordings(
    name: str,
    rows: Sequence[Row],
    classes: Sequence[str],
    faults: Faults,
    *,
    multi_label: bool = False,
    max_frames: int | None = None,
    decoders: Mapping[str, Decoder] | None = None,
    cache: Path | None = None,
) -> Recordings:
    """The rows that can be taken, as a data set; each of the others is noted in `faults`.

    A row is left out whose file is damaged, empty, of another width than most, longer than `max_frames`, of another
    length than announced or not finite, who has no file, no label (or, unless `multi_label`, several) or one outside
    `classes`. Raises DataError for a suffix that no reader is known for, and where nothing is left.
    """
    known = DECODERS if decoders is None else decoders
    modalities = _modalities(rows, known)
    looked = _look(name, rows, known, cache)
    shapes = {m: _usual(looked, rows, modalities[m]) for m in modalities}
    kept: list[Row] = []
    for row in rows:
        wrong = _labels(row, classes, multi_label)
        for m, file in row.files.items():
            wrong = wrong or _wrong(file, looked[str(file)], modalities[m], shapes[m], max_frames)
        if wrong is None:
            kept.append(row)
        else:
            faults.add(wrong[0], f"{row.id}: {wrong[1]}")
    if not kept:
        raise DataError(f"data set {name!r}: none of {len(rows)} samples can be taken\n{faults}")
    return Recordings(name, modalities, tuple(classes), tuple(kept), shapes, multi_label, known)


def _modalities(rows: Sequence[Row], decoders: Mapping[str, Decoder]) -> dict[str, Modality]:
    found: dict[str, Modality] = {}
    for row in rows:
        for name, file in row.files.items():
            modality = _decoder(file, decoders).modality(name)
            if found.setdefault(name, modality) != modality:
                raise DataError(f"{file}: holds {modality.axes} in {modality.unit}, other files of {name!r} "
                                f"{found[name].axes} in {found[name].unit}; expected one kind a modality")  # fmt: skip
    return found


Looked = dict[str, tuple[tuple[int, ...], str]]


def _look(name: str, rows: Sequence[Row], decoders: Mapping[str, Decoder], cache: Path | None) -> Looked:
    """File -> its shape and what is wrong with it ("kind|detail"), each read once."""
    files = list({str(file): file for row in rows for file in row.files.values()}.values())
    there = sorted({file.path for file in files if file.path.exists()})

    def one(file: File) -> tuple[str, str, bool]:
        try:
            x = _read(file, decoders)
        except PackageError:  # to be installed, and no file's fault
            raise
        except DataError as error:
            kind = error.kind if isinstance(error, SampleError) else "damaged"
            return "[]", f"{kind}|{error}", isinstance(error.__cause__, OSError | MemoryError)
        bad = int((~torch.isfinite(x)).sum())
        return json.dumps(list(x.shape)), f"not finite|{file}: {bad} values are NaN or Inf" if bad else "", False

    def look(some: Sequence[File]) -> list[tuple[str, str, bool]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(one, some))

    columns = ("shape", "problem", "refused")

    def build() -> dict[str, NDArray[Any]]:
        seen = look(files)
        return {column: np.array([outcome[i] for outcome in seen]) for i, column in enumerate(columns)}

    readers = {suffix: decoder.options for suffix, decoder in decoders.items()}
    folders = {str(path): inside(path) for path in there if path.is_dir()}
    options = {"files": [str(file) for file in files], "readers": readers, "folders": folders}
    kept = load_or_build(cache_key(name, options, _VERSION, there), build, cache)
    found = dict(zip(files, zip(*(kept[column].tolist() for column in columns), strict=True), strict=True))
    # Rights, memory or a disk that was away are mended without a change of the file.
    again = [file for file, (_, _, refused) in found.items() if refused]
    found.update(zip(again, look(again), strict=True))
    return {str(file): (tuple(json.loads(shape)), problem) for file, (shape, problem, _) in found.items()}


def _single(shape: tuple[int, ...], modality: Modality) -> tuple[int, ...]:
    """A shape with T = 1."""
    at = modality.axis("T")
    return shape if at is None else (*shape[: at - 1], 1, *shape[at:])


def _usual(looked: Looked, rows: Sequence[Row], modality: Modality) -> tuple[int, ...]:
    """The shape, but for its length, that most files of a modality have."""
    shapes = (looked[str(row.files[modality.name])][0] for row in rows if modality.name in row.files)
    rank = len(modality.axes) - 1
    counts = Counter(_single(shape, modality) for shape in shapes if len(shape) == rank)
    return counts.most_common(1)[0][0] if counts else (1,) * rank


def _labels(row: Row, classes: Sequence[str], multi_label: bool) -> tuple[str, str] | None:
    if not row.files:
        return "no file", "no modality has a file"
    if not row.labels:
        return "no label", "no class is named"
    unknown = [label for label in row.labels if label not in classes]
    if unknown:
        return "unknown label", f"{unknown[0]!r} is none of the {len(classes)} classes"
    if len(row.labels) > 1 and not multi_label:
        return "several labels", (
            f"{len(row.labels)} classes are named ({', '.join(row.labels[:4])}), expected one; or say multi_label: true"
        )
    return None


def _wrong(
    file: File, looked: tuple[tuple[int, ...], str], modality: Modality, usual: tuple[int, ...], most: int | None
) -> tuple[str, str] | None:
    """Kind and detail of what keeps a file from being taken."""
    shape, problem = looked
    if problem:
        kind, _, detail = problem.partition("|")
        return kind, detail
    at = modality.axis("T")
    length = 1 if at is None else shape[at - 1]
    if _single(shape, modality) != usual:
        width = " x ".join("T" if i + 1 == at else str(n) for i, n in enumerate(usual))
        return "wrong width", f"{file}: found {' x '.join(map(str, shape))}, expected {width} as most have"
    if length == 0:
        return "empty", f"{file}: no frame at all"
    if most is not None and length > most:
        return "too long", f"{file}: {length} frames, expected at most {most}"
    if file.length is not None and file.length != length:
        return "other length", f"{file}: {length} frames, announced were {file.length}"
    return None
