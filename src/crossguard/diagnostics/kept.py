"""The rows of a data set that have the smallest keys, class by class, and how rows of several batches are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.batch import Batch, Feature, each, take


@dataclass(frozen=True)
class Handed:
    """A branch's `feature` with the `size` (N, axes) of the inputs that it is of: masks are over these axes."""

    feature: Feature
    size: Tensor

    @classmethod
    def of(cls, feature: Feature, x: Tensor) -> Handed:
        """The feature of inputs `x` (N, ...)."""
        return cls(feature, torch.tensor(x.shape[1:], dtype=torch.int64).expand(len(x), -1))


class Kept:
    """The rows of the `most` smallest keys of each class; never more than twice as many are held."""

    def __init__(self, most: int, classes: int) -> None:
        self.most = most
        self.seen = torch.zeros(classes, dtype=torch.int64)
        self.limit = torch.full((classes,), torch.iinfo(torch.int64).max)
        self.table: list[dict[str, Any]] = []
        self.pruned = self.added = 0

    def see(self, keys: Tensor, belongs: Tensor, rows: dict[str, Any], batch: Batch) -> None:
        """Take in what may yet be among the smallest."""
        self.seen += belongs.sum(dim=0)
        chosen = (belongs & (keys[:, None] <= self.limit)).any(dim=1).nonzero().squeeze(1)
        if not len(chosen):
            return
        index: list[int] = chosen.tolist()
        part: dict[str, Any] = each(rows, lambda x: _own(x, chosen))
        ids = batch.ids or tuple(str(int(k)) for k in keys)
        groups = batch.groups or ids
        said = {"ids": [ids[i] for i in index], "groups": [groups[i] for i in index]}
        self.table.append({"keys": keys[chosen], "belongs": belongs[chosen], **part, **said})
        self.added += len(index)
        if self.added > max(self.pruned, self.most):
            self.prune()

    def prune(self) -> dict[str, Any]:
        """Leave the `most` smallest keys of each class, in the order of the keys."""
        whole = {n: _joined([part[n] for part in self.table]) for n in self.table[0]}
        keys, belongs = whole["keys"], whole["belongs"]
        for c, count in enumerate(belongs.sum(dim=0).tolist()):
            if count >= self.most:
                self.limit[c] = keys[belongs[:, c]].kthvalue(self.most).values
        keep = (belongs & (keys[:, None] <= self.limit)).any(dim=1).nonzero().squeeze(1)
        keep = keep[keys[keep].argsort(stable=True)]
        whole = {n: [v[i] for i in keep.tolist()] if isinstance(v, list) else take(v, keep) for n, v in whole.items()}
        self.table, self.pruned, self.added = [whole], len(keep), 0
        return whole


def _own(x: Tensor, rows: Tensor) -> Tensor:
    """The rows of a tensor, in memory of their own on the CPU, no less precise than float32."""
    x = x.detach().cpu()[rows]
    return x.float() if x.is_floating_point() and x.dtype != torch.float64 else x


def _joined(parts: Sequence[Any]) -> Any:
    """One after another: lists, tensors padded with 0 to the largest, or what branches handed over."""
    if isinstance(parts[0], list):
        return [x for part in parts for x in part]
    if isinstance(parts[0], Handed):
        return Handed(_features(parts), torch.cat([part.size for part in parts]))
    size = [max(axis) for axis in zip(*(x.shape[1:] for x in parts), strict=True)]
    return torch.cat([F.pad(x, _missing(x, size)) for x in parts])


def _features(parts: Sequence[Handed]) -> Feature:
    """Features one after another, what some do not mask being real as far as their own inputs reach."""
    features = [part.feature for part in parts]
    padded = len({f.value.shape[1:] for f in features}) > 1
    whole: dict[str, Tensor] = {}
    for name in vars(features[0]):
        found = [vars(f)[name] for f in features]
        some = [x for x in found if isinstance(x, Tensor)]
        if some and some[0].dtype != torch.bool:
            whole[name] = _joined(found)
        elif some or (padded and name == "mask"):
            tail = _axes(found, parts, padded and name != "present")
            real = zip(found, parts, strict=True)
            whole[name] = torch.cat([_real(mask, part.size, tail) for mask, part in real])
    return replace(features[0], **whole)


def _axes(masks: Sequence[Tensor | None], parts: Sequence[Handed], padded: bool) -> list[int]:
    """The sizes of a mask of all parts after the first axis: 1 where no part tells apart, unless padding must be."""
    sizes = torch.cat([part.size for part in parts])
    varies: list[bool] = (sizes.amax(dim=0) > sizes.amin(dim=0)).tolist()
    depth = max(m.dim() - 1 for m in masks if m is not None) if any(m is not None for m in masks) else 0
    if padded:
        depth = max([depth, *(axis + 1 for axis, differs in enumerate(varies) if differs)])
    tail: list[int] = []
    for axis in range(depth):
        own = [m.shape[axis + 1] if m is not None and m.dim() > axis + 1 else 1 for m in masks]
        apart = max(own) > 1 or (padded and varies[axis])
        reach = (n if n > 1 else int(part.size[:, axis].max()) for n, part in zip(own, parts, strict=True))
        tail.append(max(reach) if apart else 1)
    return tail


def _real(mask: Tensor | None, size: Tensor, tail: Sequence[int]) -> Tensor:
    """(N, *tail) of a mask, which says nothing beyond the `size` (N, axes) of the inputs."""
    real = torch.ones(len(size), dtype=torch.bool) if mask is None else mask
    real = real.reshape(real.shape + (1,) * (len(tail) + 1 - real.dim()))
    for axis, longest in enumerate(tail):
        if real.shape[axis + 1] == 1 < longest:
            within = torch.arange(longest) < size[:, axis, None]
            real = real & within.view(len(size), *(longest if a == axis else 1 for a in range(len(tail))))
    return F.pad(real, _missing(real, tail))


def _missing(x: Tensor, size: Sequence[int]) -> list[int]:
    """How much is to be added after each axis but the first, the last axis first, as `F.pad` takes it."""
    return [n for have, want in zip(reversed(x.shape[1:]), reversed(size), strict=True) for n in (0, want - have)]
