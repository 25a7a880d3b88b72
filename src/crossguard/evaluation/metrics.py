"""Metrics over a whole set: accuracy, hit@k, global and mean average precision.

Scores are (N, C), larger is more likely; targets (N,) class numbers, or (N, C) of zeros and ones.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossguard.core import InputError

Scores: TypeAlias = NDArray[Any] | Tensor


def _pair(scores: Scores, targets: Scores) -> tuple[NDArray[Any], NDArray[Any]]:
    found = scores.detach().cpu().numpy() if isinstance(scores, Tensor) else np.asarray(scores)
    truth = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
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


def accuracy(scores: Scores, targets: Scores) -> float:
    """Share of samples whose top-scored class is right; NaN without samples."""
    return hit(scores, targets, k=1)


def hit(scores: Scores, targets: Scores, k: int = 1) -> float:
    """hit@k: share of samples with a true class among their k best; equal scores count in the order of classes."""
    found, truth = _pair(scores, targets)
    if not len(found):
        return float("nan")
    return float(np.take_along_axis(truth, _best(found, k), axis=1).any(axis=1).mean())


def _best(scores: NDArray[Any], k: int) -> NDArray[Any]:
    """(N, min(k, C)) classes by falling score, the earlier class first where scores are equal."""
    if k < 1:
        raise InputError(f"k is {k}, expected a whole number >= 1")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def gap(scores: Scores, targets: Scores, k: int = 20) -> float:
    """Global average precision (YouTube-8M): the k best classes of every sample in one ranked list.

    The sum over the list of precision x rise of recall, recall over *all* true labels. Equal scores are one step of
    the curve, as in scikit-learn, so that the order of samples cannot matter; for k >= C this is micro-AP.
    NaN where no label is true.
    """
    found, truth = _pair(scores, targets)
    best = _best(found, k)
    kept, right = np.take_along_axis(found, best, axis=1), np.take_along_axis(truth, best, axis=1)
    return _average_precision(kept.ravel(), right.ravel(), int(truth.sum()))


def average_precisions(scores: Scores, targets: Scores) -> NDArray[np.float64]:
    """(C,) average precision of each class over the samples; NaN for a class that no sample has."""
    found, truth = _pair(scores, targets)
    columns = range(found.shape[1])
    return np.array([_average_precision(found[:, c], truth[:, c], int(truth[:, c].sum())) for c in columns])


def mean_average_precision(scores: Scores, targets: Scores) -> float:
    """Mean over the classes that some sample has; NaN where there is none."""
    by_class = average_precisions(scores, targets)
    seen = by_class[~np.isnan(by_class)]
    return float(seen.mean()) if seen.size else float("nan")


def _average_precision(scores: NDArray[Any], right: NDArray[Any], positives: int) -> float:
    if positives == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], right[order].astype(np.float64)
    last = np.r_[np.flatnonzero(np.diff(ranked)), len(ranked) - 1]
    found = np.cumsum(hits)[last]
    precision = found / (last + 1)
    return float((precision * np.diff(np.r_[0.0, found])).sum() / positives)


__all__ = ["accuracy", "average_precisions", "gap", "hit", "mean_average_precision"]
