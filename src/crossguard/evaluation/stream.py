"""The batches of an evaluation: checked, capped, on the device, and the same on every pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossguard.core import Batch, InputError, Modality, Task
from crossguard.core.batch import check_finite, check_mask
from crossguard.core.random import text_key
from crossguard.threat import ThreatModel

# Axes of inputs that nobody described, by rank.
_AXES = {1: "N", 2: "ND", 3: "NTD", 4: "NCHW", 5: "NCTHW"}


class Stream:
    """Iterates (number, Batch), each with ids and groups; raises InputError or ThreatError for what cannot be meant.

    `samples` caps the set: by classes in equal shares where the loader's data set tells targets, else the first ones.
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        threat: ThreatModel,
        *,
        modalities: Mapping[str, Modality] | None,
        samples: int | None,
        device: torch.device,
    ) -> None:
        dataset: Any = getattr(loader, "dataset", None)
        given = modalities or getattr(dataset, "modalities", None)
        ids: tuple[str, ...] = tuple(getattr(dataset, "ids", ()))
        _check_ids(ids, set())
        self.loader = list(loader) if isinstance(loader, Iterator) else loader
        self.threat, self.samples, self.device = threat, samples, device
        self.modalities: dict[str, Modality] | None = None if given is None else dict(given)
        self.task: Task | None = None
        self.ids = ids
        self.content: list[str] = []  # a hash of each batch seen so far
        self.order: list[tuple[str, ...]] = []
        self.chosen: frozenset[str] | None = None
        targets = getattr(dataset, "targets", None)
        if samples is not None and targets is not None and samples < len(ids):
            self.chosen = frozenset(_spread(ids, _first_class(targets), samples))
            size = getattr(loader, "batch_size", None)
            if hasattr(dataset, "read") and isinstance(size, int) and getattr(loader, "world", 1) == 1:
                rows = [i for i, name in enumerate(ids) if name in self.chosen]
                self.loader = _Reader(dataset, [rows[i : i + size] for i in range(0, len(rows), size)])

    @property
    def batches(self) -> int | None:
        """How many batches there are, where that is known before they are read."""
        return len(self.loader) if hasattr(self.loader, "__len__") else None  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        seen: set[str] = set()
        number = 0
        for raw in self.loader:
            batch = self._named(raw, len(seen))
            left = len(batch) if self.samples is None else self.samples - len(seen)
            keep = [i for i, name in enumerate(batch.ids) if self.chosen is None or name in self.chosen][:left]
            if len(keep) < len(batch):
                batch = batch.take(keep)
            if len(batch):
                _check_ids(batch.ids, seen)
                self._check(batch)
                seen.update(batch.ids)
                self._check_order(number, batch)
                yield number, batch.to(self.device)
                number += 1
            if len(seen) == self.samples:
                return

    def whole(self) -> dict[str, str]:
        """Of what a pass has seen, a hash of the ids, batch by batch, and one of all that the batches hold."""
        seen = {"order": self.order, "content": self.content}
        return {k: hashlib.blake2b(repr(v).encode(), digest_size=16).hexdigest() for k, v in seen.items()}

    def _check_order(self, number: int, batch: Batch) -> None:
        """Passes go on from what earlier ones found, batch by batch, so each must yield the same."""
        found = digest(batch)
        if number == len(self.content):
            self.content.append(found)
            self.order.append(batch.ids)
        elif self.content[number] != found:
            raise InputError(
                f"the loader yields other samples in batch {number} than on its first pass; an evaluation passes over "
                f"the data several times: turn shuffling and random augmentation off"
            )

    def _named(self, batch: Batch, before: int) -> Batch:
        if not isinstance(batch, Batch):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"the loader yielded {type(batch).__name__}, expected cg.Batch(inputs, targets, …)")
        n = len(batch)
        ids = tuple(batch.ids) or tuple(str(before + i) for i in range(n))
        groups = tuple(batch.groups) or ("",) * n
        if len(ids) != n or len(groups) != n:
            raise InputError(f"a batch of {n} samples has {len(ids)} ids and {len(groups)} groups, expected one each")
        if self.modalities is None:
            self.modalities = {m: _guess(m, x) for m, x in batch.inputs.items()}
        absent = [m for m in self.modalities if m not in batch.inputs]
        if absent:
            raise InputError(f"modality {absent[0]!r} is absent: the batch has {sorted(batch.inputs)}")
        inputs = {m: batch.inputs[m] for m in self.modalities}
        mask = {m: real for m, real in batch.mask.items() if m in inputs}
        return replace(batch, inputs=inputs, mask=mask, ids=ids, groups=groups)

    def _check(self, batch: Batch) -> None:
        """Raise before any work on this batch."""
        for m, modality in (self.modalities or {}).items():
            x = batch.inputs[m]
            modality.check(x)
            if x.shape[0] != len(batch):
                raise InputError(f"modality {m!r} has {x.shape[0]} samples, the targets have {len(batch)}")
        check_finite(batch.inputs, batch.ids)
        check_mask(batch.mask, batch.inputs)
        self.threat.check(batch.inputs, batch.mask)
        if self.task is not None:
            self.task.check(batch.targets)


def digest(batch: Batch) -> str:
    """Hash of all that a batch holds, the same on any device."""
    found = hashlib.blake2b(repr((batch.ids, batch.groups)).encode(), digest_size=16)
    tensors = {"targets": batch.targets} | batch.inputs | {f"mask/{m}": x for m, x in batch.mask.items()}
    for name, x in tensors.items():
        found.update(f"{name}{tuple(x.shape)}{x.dtype}".encode())
        found.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class _Reader:
    """Reads chosen samples of a data set, and no others, in full batches."""

    def __init__(self, dataset: Any, rows: list[list[int]]) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Batch]:
        return (self.dataset.read(rows) for rows in self.rows)


def _guess(name: str, x: Tensor) -> Modality:
    if x.dim() not in _AXES:
        raise InputError(
            f"modality {name!r}: found {x.dim()} axes and no description; pass modalities={{{name!r}: cg.Modality(…)}}"
        )
    return Modality(name, _AXES[x.dim()], "unknown")


def _check_ids(ids: tuple[str, ...], seen: set[str]) -> None:
    known = set(seen)
    for name in ids:
        if name in known:
            raise InputError(f"two samples have the id {name!r}; comparisons pair samples by id, so make them unique")
        known.add(name)


def _first_class(targets: Any) -> np.ndarray[Any, Any]:
    """(N,) the class, or the first of several (0 of none), of dense or sparse targets."""
    if isinstance(targets, Tensor) and targets.is_sparse:
        row, column = targets.coalesce().indices().numpy()
        label = np.zeros(targets.shape[0], dtype=np.int64)
        label[row[::-1]] = column[::-1]
        return label
    found = np.asarray(targets)
    return found.argmax(axis=1) if found.ndim == 2 else found


def _spread(ids: tuple[str, ...], label: np.ndarray[Any, Any], samples: int) -> list[str]:
    """`samples` ids, as equal a number of each class as can be, picked by their hash: never by where they lie."""
    order = sorted(range(len(ids)), key=lambda i: text_key(ids[i]))
    turn: dict[int, int] = {}
    rank: list[tuple[int, int]] = []
    for place, i in enumerate(order):
        turn[int(label[i])] = turn.get(int(label[i]), 0) + 1
        rank.append((turn[int(label[i])], place))
    return [ids[order[place]] for _, place in sorted(rank)[:samples]]
