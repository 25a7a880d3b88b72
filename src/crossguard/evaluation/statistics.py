"""Intervals: no figure is printed without one.

Samples of one group (a subject, a speaker, a video) are alike, so intervals resample groups first and then samples
within them. Where there is one group or none, samples are taken as independent (Wilson). Outcomes of several trainings
have a leading axis of seeds, which are drawn apart from the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossguard.core import InputError
from crossguard.core.estimate import Z95, Estimate, wilson

Array: TypeAlias = NDArray[Any]
Groups: TypeAlias = Sequence[str] | Array | None

DRAWS = 2000
_Z80 = 0.8416212335729143


def split_groups(groups: Groups, n: int) -> list[Array]:
    """Indices by group; every sample its own group where there are no groups, or only one.

    Raises InputError where the number of groups' labels is not `n`.
    """
    labels = np.asarray(() if groups is None else groups)
    if labels.size and labels.shape != (n,):
        raise InputError(f"found {labels.shape[0]} groups for {n} samples, expected one label a sample")
    if labels.size:
        _, inverse = np.unique(labels, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        found = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
        if len(found) > 1:
            return found
    return [np.array([i]) for i in range(n)]


def has_groups(groups: Groups) -> bool:
    """Whether groups tell samples apart: more than one of them."""
    return groups is not None and len(np.unique(np.asarray(groups))) > 1


def bootstrap_means(values: Array, groups: Groups = None, *, draws: int = DRAWS, seed: int = 0) -> Array:
    """(draws, K) means of (N, K) values over resampled groups and samples within them.

    Equal rows of a group are drawn together, which is the same distribution and costs the number of *different* rows.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    members = split_groups(groups, len(table))
    rng = np.random.default_rng(seed)
    if all(len(rows) == 1 for rows in members):
        return _draw(table, rng, np.full(draws, len(table))) / len(table)
    chosen = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    total, count = np.zeros((draws, table.shape[1])), np.zeros(draws)
    for column, rows in enumerate(members):
        size = chosen[:, column] * len(rows)
        total += _draw(table[rows], rng, size)
        count += size
    return total / count[:, None]


def _draw(table: Array, rng: np.random.Generator, size: Array) -> Array:
    """(draws, K) sums of `size` rows each, drawn with replacement."""
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    return rng.multinomial(size, counts / counts.sum()) @ kinds


def bootstrap_rows(n: int, groups: Groups = None, *, draws: int = 200, seed: int = 0) -> list[Array]:
    """`draws` arrays of row numbers, groups resampled first: for metrics that are no means."""
    members = split_groups(groups, n)
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    if all(len(rows) == 1 for rows in members):
        return [rng.integers(n, size=n) for _ in range(draws)]
    for _ in range(draws):
        chosen = [members[i] for i in rng.integers(len(members), size=len(members))]
        found.append(np.concatenate([rows[rng.integers(len(rows), size=len(rows))] for rows in chosen]))
    return found


def interval(drawn: Array) -> tuple[float, float]:
    """The middle 95 % of what was drawn."""
    finite = drawn[np.isfinite(drawn)]
    if not finite.size:
        return math.nan, math.nan
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


def mean_known(values: Array, axis: int | None = None) -> Array:
    """The mean of what is not NaN; NaN of nothing, without numpy's warning."""
    count = np.sum(~np.isnan(values), axis=axis)
    return np.where(count > 0, np.nansum(values, axis=axis) / np.maximum(count, 1), np.nan)


def share(right: Array, groups: Groups = None, *, seed: int = 0) -> Estimate:
    """The share of (N,) samples that are right: Wilson, or the wider of it and the bootstrap where there are groups.

    Of (S, N) samples by seed: the bootstrap over seeds and groups.
    """
    flags = np.asarray(right, dtype=bool)
    if not flags.size:
        return Estimate.undefined()
    if flags.ndim == 2:
        return of_means(flags[..., None], lambda means: means[..., 0], groups, seed=seed, limits=(0.0, 1.0))
    low, high = wilson(float(flags.sum()), flags.size)
    if has_groups(groups):
        drawn_low, drawn_high = interval(bootstrap_means(flags, groups, seed=seed)[:, 0])
        low, high = min(low, drawn_low), max(high, drawn_high)
    return Estimate(float(flags.mean()), low, high, flags.size)


def of_means(
    values: Array,
    function: Callable[[Array], Array],
    groups: Groups = None,
    *,
    seed: int = 0,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """`function` of the column means ((…, K) -> (…)) of (N, K) values, with a bootstrap interval.

    Of (S, N, K) values by seed: the mean of the seeds' own. Where nothing varies over the draws, the interval is what
    n samples without a single exception leave open.
    """
    table = np.asarray(values, dtype=np.float64)
    n = table.shape[-2]
    if n == 0:
        return Estimate.undefined()
    value = float(function(table.mean(axis=-2)).mean())
    return _estimate(value, interval(_drawn(table, function, groups, seed)), n, limits)


def _estimate(value: float, ends: tuple[float, float], n: int, limits: tuple[float, float]) -> Estimate:
    """With ends that hold the value within its limits; where draws did not vary, those that n samples without a single
    exception leave open."""
    low, high = ends
    if high - low < 1e-12:
        slack = wilson(0, n)[1]
        low, high = value - slack, value + slack
    return Estimate(value, min(max(low, limits[0]), value), max(min(high, limits[1]), value), n)


def _drawn(table: Array, function: Callable[[Array], Array], groups: Groups, seed: int) -> Array:
    """(draws,) values of `function` of the resampled means, averaged over resampled seeds."""
    by_seed = table[None] if table.ndim == 2 else table
    s, n, k = by_seed.shape
    means = bootstrap_means(by_seed.transpose(1, 0, 2).reshape(n, s * k), groups, seed=seed)
    return average_seeds(function(means.reshape(-1, s, k)), seed)


def average_seeds(found: Array, seed: int = 0) -> Array:
    """(draws,) means of (draws, S) values over resampled seeds.

    All seeds are tested on the same samples, so both are drawn, each by itself (the pigeonhole bootstrap of Owen,
    2007): groups drawn anew for every seed would seem to average out. Seeds are few; S - 1 of S are drawn, which makes
    the variance unbiased (McCarthy and Snowden, 1985).
    """
    count = found.shape[1]
    if count == 1:
        return found[:, 0]
    rng = np.random.default_rng((seed, 1))
    times = rng.multinomial(count - 1, np.full(count, 1 / count), size=len(found))
    return (found * times).sum(axis=1) / (count - 1)


def of_draws(
    function: Callable[[Array | None], Array],
    n: int,
    groups: Groups = None,
    *,
    seed: int = 0,
    limits: tuple[float, float] = (-math.inf, math.inf),
    reflect: bool = False,
) -> Estimate:
    """What is no mean over samples: `function` of how often each of n samples counts (None: once) gives (S,) values,
    one a seed; their mean, with a bootstrap interval as in `of_means`.

    `reflect`: the quantiles q are turned about the value, to 2 value - q (the basic bootstrap of Davison and Hinkley,
    1997), for what samples drawn twice shift to one side: as far as draws lie from the value, it lies from the truth.
    """
    value = float(np.mean(function(None))) if n else math.nan
    if not math.isfinite(value):
        return Estimate.undefined()
    low, high = interval(redrawn(function, n, groups, seed=seed))
    return _estimate(value, (2 * value - high, 2 * value - low) if reflect else (low, high), n, limits)


def redrawn(
    function: Callable[[Array | None], Array], n: int, groups: Groups = None, *, draws: int = 200, seed: int = 0
) -> Array:
    """(draws,) values of such a function over resampled groups and samples, averaged over resampled seeds."""
    rows = bootstrap_rows(n, groups, draws=draws, seed=seed)
    return average_seeds(np.array([function(np.bincount(drawn, minlength=n)) for drawn in rows]), seed)


def difference(first: Array, second: Array, groups: Groups = None, *, seed: int = 0) -> Estimate:
    """Mean of `first - second`, paired by sample, (N,) each; (S, N) by seed."""
    delta = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return of_means(delta[..., None], lambda means: means[..., 0], groups, seed=seed, limits=(-1.0, 1.0))


def detectable_difference(first: Array, second: Array, groups: Groups = None, *, seed: int = 0) -> float:
    """The smallest true difference that this design shows with 80 % power at the 5 % level, two-sided.

    (z_0.975 + z_0.8) standard errors of the paired difference ((N,) each, or (S, N) by seed), the standard error by
    hierarchical bootstrap; with no discordant sample at all, one sample's worth stands in for the variance.
    """
    delta = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not delta.size:
        return math.nan
    return smallest_of(_drawn(delta[..., None], lambda means: means[..., 0], groups, seed), delta.shape[-1])


def smallest_of(drawn: Array, n: int) -> float:
    """That difference, of bootstrap draws of the paired one over n samples; see `detectable_difference`."""
    return (Z95 + _Z80) * (float(drawn.std(ddof=1)) or 1 / n)
