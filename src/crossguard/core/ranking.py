"""Metrics of ranked labels (YouTube-8M's), exact though samples come in batches and on several ranks.

Of every sample the k best classes are kept, with its true ones: 20 pairs a video, not 3862. Equal scores of a list are
one step of its curve, as in scikit-learn, so that no order of samples can matter; within a sample, the earlier class
counts as the better one. Weights by sample count it as often: whole numbers draw it again, as a bootstrap does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from crossguard.core.errors import InputError

Array: TypeAlias = NDArray[Any]
Scores: TypeAlias = Array | Tensor

# Beyond the logits of any model, and finite.
WORST = 1e30


def pair(scores: Scores, targets: Scores) -> tuple[Array, Array]:
    """(N, C) scores and (N, C) bool of what is true, of targets (N,) or (N, C); raises InputError for others."""
    found, truth = _array(scores), _array(targets)
    if found.ndim != 2 or truth.shape not in (found.shape, found.shape[:1]):
        raise InputError(
            f"found scores of shape {found.shape} and targets of shape {truth.shape}, expected (N, C) and "
            f"(N,) or (N, C)"
        )
    if not np.isfinite(found).all():
        raise InputError("scores hold NaN or Inf, expected finite numbers; nothing can be ranked by NaN")
    if truth.ndim == 1:
        if truth.size and not (int(truth.min()) >= 0 and int(truth.max()) < found.shape[1]):
            raise InputError(f"targets span [{truth.min()}, {truth.max()}], expected [0, {found.shape[1] - 1}]")
        truth = np.arange(found.shape[1]) == truth[:, None]
    return found, truth.astype(bool)


def rankable(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, C) scores of logits (N, C) and targets (N, C) of 0 and 1: where a sample is answered NaN, finite ones that
    rank all its labels last, so that no answer is no way out."""
    lost = logits.isnan().any(dim=1, keepdim=True)
    return torch.where(lost, torch.where(targets > 0, -WORST, WORST).to(logits), logits)


def _array(values: Scores) -> Array:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    # numpy has no bfloat16.
    return (values.detach().float() if values.dtype == torch.bfloat16 else values.detach()).cpu().numpy()


def best(scores: Array, k: int) -> Array:
    """(N, min(k, C)) classes by falling score, the earlier class first where scores are equal."""
    if k < 1:
        raise InputError(f"k is {k}, expected a whole number >= 1")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


class Ranking:
    """GAP@k, MAP@k, Hit@j and PERR of the samples added so far.

    Classes that are not among a sample's `k` best count as never listed, in MAP as in GAP (as YouTube-8M's own
    evaluation has it); with k >= C both are plain average precision.
    """

    def __init__(self, classes: int, k: int = 20) -> None:
        self.classes, self.k = classes, min(k, classes)
        # By list entry (N, k): score, class, whether it is true; by sample: labels, and PERR's share.
        self._parts: dict[str, list[Array]] = {n: [] for n in ("score", "class", "right", "count", "perr", "labels")}
        self._lists: dict[str, _Lists] = {}

    @classmethod
    def of(cls, scores: Scores, targets: Scores, k: int = 20) -> Ranking:
        """Of a whole set at once."""
        ranking = cls(int(scores.shape[-1]), k)
        ranking.add(scores, targets)
        return ranking

    def add(self, scores: Scores, targets: Scores) -> None:
        """Samples: scores (N, C), targets (N,) or (N, C); raises InputError for what cannot be ranked."""
        found, truth = pair(scores, targets)
        if found.shape[1] != self.classes:
            raise InputError(f"found scores of {found.shape[1]} classes, expected {self.classes}")
        count = truth.sum(axis=1)
        order = best(found, max(self.k, int(count.max(initial=1))))
        right = np.take_along_axis(truth, order, axis=1)
        within = np.arange(order.shape[1]) < count[:, None]
        top = order[:, : self.k]
        new: dict[str, Array] = {
            "score": np.take_along_axis(found, top, axis=1),
            "class": top.astype(np.int32),
            "right": right[:, : self.k],
            "count": count,
            "perr": (right & within).sum(axis=1) / np.maximum(count, 1),
            "labels": np.nonzero(truth)[1].astype(np.int32),
        }
        for name, part in self._parts.items():
            part.append(new[name])
        self._lists.clear()

    def merge(self, other: Ranking) -> None:
        """Add the samples of another one; raises InputError where it ranks otherwise."""
        if (other.classes, other.k) != (self.classes, self.k):
            raise InputError(f"{self.classes} classes by their {self.k} best, the other {other.classes} by {other.k}")
        for name, part in self._parts.items():
            part += other._parts[name]
        self._lists.clear()

    def gathered(self, device: torch.device | None = None) -> Ranking:
        """Of the samples of all ranks, the same on each, in the order of the ranks; itself without a process group.
        `device` (None: the CPU) is this rank's own, by which it speaks to the others."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self
        whole = Ranking(self.classes, self.k)
        for name, empty in _EMPTY.items():
            shape = (0, self.k) if name in ("score", "class", "right") else (0,)
            mine = np.concatenate([np.zeros(shape, empty), *self._parts[name]]).astype(empty)
            whole._parts[name] = _from_all(mine, device)
        return whole

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts["count"])

    def gap(self, weights: Array | None = None) -> float:
        """Global average precision: the k best of all samples in one list; recall over *all* true labels. NaN where no
        label is true."""
        positives = float(self._weighted(weights) @ self._all("count")) if len(self) else 0.0
        if positives == 0:
            return float("nan")
        return float(self._list("gap").sums(self._weighted(weights))[0] / positives)

    def average_precisions(self, weights: Array | None = None) -> Array:
        """(C,) average precision of each class; NaN for a class that no sample has."""
        if not len(self):
            return np.full(self.classes, np.nan)
        w = self._weighted(weights)
        row = np.repeat(np.arange(len(self)), self._all("count"))
        positives = np.bincount(self._all("labels"), w[row], self.classes)
        sums = self._list("map").sums(w)
        return np.divide(sums, positives, out=np.full(self.classes, np.nan), where=positives > 0)

    def map(self, weights: Array | None = None) -> float:
        """Mean average precision over the classes that some sample has; NaN where there is none."""
        found = self.average_precisions(weights)
        seen = found[~np.isnan(found)]
        return float(seen.mean()) if seen.size else float("nan")

    def hit(self, k: int = 1, weights: Array | None = None) -> float:
        """Hit@k: the share of samples with a true class among their k best; NaN without samples."""
        if not 1 <= k <= self.k:
            raise InputError(f"hit@{k} of the {self.k} best that are kept, expected 1 to {self.k}")
        if not len(self):
            return float("nan")
        found: Array = self._all("right")[:, :k].astype(bool)
        return _mean(found.max(axis=1), self._weighted(weights))

    def perr(self, weights: Array | None = None) -> float:
        """Precision at equal recall rate: of a sample with n labels, the share of its n best that are true; the mean
        over samples that have a label."""
        if not len(self):
            return float("nan")
        return _mean(self._all("perr"), self._weighted(weights) * (self._all("count") > 0))

    def _all(self, name: str) -> Array:
        part = self._parts[name]
        if len(part) > 1:
            part[:] = [np.concatenate(part)]
        return part[0]

    def _weighted(self, weights: Array | None) -> Array:
        if weights is not None and np.shape(weights) != (len(self),):
            raise InputError(f"found weights of shape {np.shape(weights)} for {len(self)} samples")
        return np.ones(len(self)) if weights is None else np.asarray(weights, dtype=np.float64)

    def _list(self, name: str) -> _Lists:
        """Ranked once, however many weights are asked for."""
        if name not in self._lists:
            score, right = self._all("score"), self._all("right")
            groups = self._all("class") if name == "map" else np.zeros_like(self._all("class"))
            self._lists[name] = _Lists(score, right, groups, self.classes if name == "map" else 1)
        return self._lists[name]


_EMPTY: Mapping[str, type] = {
    "score": np.float64, "class": np.int64, "right": np.int64, "count": np.int64, "perr": np.float64, "labels": np.int64
}  # fmt: skip


def _mean(values: Array, weights: Array) -> float:
    return float(values @ weights / weights.sum()) if weights.sum() > 0 else float("nan")


class _Lists:
    """Entries (N, k) as ranked lists, one a group."""

    def __init__(self, score: Array, right: Array, group: Array, groups: int) -> None:
        order = np.lexsort((-score.ravel(), group.ravel()))
        self.row = order // score.shape[1]
        hit = np.flatnonzero(right.ravel()[order])
        lists, ranked = group.ravel()[order], score.ravel()[order]
        self.groups, self.group, self.hit = groups, lists[hit], self.row[hit]
        # Of each true entry: the last one as good as it, and the one before its list begins; the same among true ones.
        last = np.flatnonzero(np.r_[(np.diff(lists) != 0) | (np.diff(ranked) != 0), True])
        self.end = last[np.searchsorted(last, hit)] + 1
        self.begin = np.searchsorted(lists, self.group)
        self.true_end, self.true_begin = np.searchsorted(hit, self.end), np.searchsorted(hit, self.begin)

    def sums(self, weights: Array) -> Array:
        """(groups,) sums of precision over true entries."""
        seen, found, mine = _summed(weights[self.row]), _summed(weights[self.hit]), weights[self.hit]
        above, true = seen[self.end] - seen[self.begin], found[self.true_end] - found[self.true_begin]
        precision = np.divide(true, above, out=np.zeros_like(true), where=above > 0)
        return np.bincount(self.group, mine * precision, self.groups)


def _summed(values: Array) -> Array:
    """(n + 1,) the sums of the first 0, 1, … n values."""
    sums = np.zeros(len(values) + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def _from_all(mine: Array, device: torch.device | None) -> list[Array]:
    """Arrays of all ranks, whose first axes differ in length."""
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(lengths, torch.tensor([len(mine)], device=device))
    sizes: Sequence[int] = [int(n) for n in lengths]
    padded = torch.zeros(max(sizes), *mine.shape[1:], dtype=torch.from_numpy(mine).dtype, device=device)
    padded[: len(mine)] = torch.from_numpy(mine)
    received = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(received, padded)
    return [x[:n].cpu().numpy() for x, n in zip(received, sizes, strict=True)]
