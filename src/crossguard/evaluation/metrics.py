"""Metrics over a whole set: accuracy, hit@k, global and mean average precision, PERR.

Scores are (N, C), larger is more likely; targets (N,) class numbers, or (N, C) of zeros and ones. Where samples come in
batches or on several ranks, `Ranking` gives the same figures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from crossguard.core.ranking import Array, Ranking, Scores, best, pair

Weighted = Callable[[Array | None], float]


def accuracy(scores: Scores, targets: Scores) -> float:
    """Share of samples whose top-scored class is right; NaN without samples."""
    return hit(scores, targets, k=1)


def hit(scores: Scores, targets: Scores, k: int = 1) -> float:
    """hit@k: share of samples with a true class among their k best; equal scores count in the order of classes."""
    found, truth = pair(scores, targets)
    if not len(found):
        return float("nan")
    return float(np.take_along_axis(truth, best(found, k), axis=1).any(axis=1).mean())


def gap(scores: Scores, targets: Scores, k: int = 20) -> float:
    """Global average precision (YouTube-8M): the k best classes of every sample in one ranked list.

    The sum over the list of precision x rise of recall, recall over *all* true labels. Equal scores are one step of
    the curve, as in scikit-learn, so that the order of samples cannot matter; for k >= C this is micro-AP.
    NaN where no label is true.
    """
    return Ranking.of(scores, targets, k).gap()


def perr(scores: Scores, targets: Scores) -> float:
    """Precision at equal recall rate (YouTube-8M): of a sample with n labels, the share of its n best that are true;
    the mean over samples that have a label."""
    return Ranking.of(scores, targets, 1).perr()


def average_precisions(scores: Scores, targets: Scores) -> NDArray[np.float64]:
    """(C,) average precision of each class over the samples; NaN for a class that no sample has."""
    return Ranking.of(scores, targets, scores.shape[1]).average_precisions()


def mean_average_precision(scores: Scores, targets: Scores) -> float:
    """Mean over the classes that some sample has; NaN where there is none."""
    return Ranking.of(scores, targets, scores.shape[1]).map()


def ranked(scores: Scores, targets: Scores) -> dict[str, Weighted]:
    """The metrics of several labels by name, each a function of how often every sample counts (None: once)."""
    found, truth = pair(scores, targets)
    seen = truth.any(axis=0)  # a class that no sample has is not in the mean, and would cost a list
    whole, top = Ranking.of(found[:, seen], truth[:, seen], max(int(seen.sum()), 1)), Ranking.of(found, truth)
    return {"map": partial(Ranking.map, whole), "gap": partial(Ranking.gap, top), "perr": partial(Ranking.perr, top)}


__all__ = ["Ranking", "accuracy", "average_precisions", "gap", "hit", "mean_average_precision", "perr", "ranked"]
