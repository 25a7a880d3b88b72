"""How densely a class fills latent space (the question of Li et al., ICASSP 2022; the measure is ours)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.errors import InputError
from crossguard.core.estimate import Estimate
from crossguard.diagnostics.classes import bootstrapped, group_codes, members, shuffled, times_drawn
from crossguard.diagnostics.neighbours import nearest, nearest_in

Kind: TypeAlias = Literal["log", "inverse", "contrast"]
MOST = 2000
# Of what float32 can tell apart on the unit sphere: points that coincide are this far from each other.
_CLOSEST = 1e-6


def density(
    latents: Tensor,
    targets: Tensor,
    k: int = 10,
    *,
    groups: Sequence[str] | None = None,
    kind: Kind = "log",
    points: int | None = None,
    repeats: int = 4,
    normalise: bool = True,
    classes: int | None = None,
    seed: int = 0,
) -> list[Estimate]:
    """One value a class of (N, D) latents, from -log r_k: r_k is the distance to the k-th nearest of the same class.

    Latents are L2-normalised (unless `normalise` is False), points of a sample's own group are no neighbours, and
    every class is judged by as many points: `points`, or those of the smallest class that has k + 1, at most 2,000;
    larger classes are subsampled `repeats` times. `kind`: "log" the mean of -log r_k; "inverse" the mean of 1 / r_j
    over the k nearest; "contrast" the mean of log(r'_k / r_k), r'_k to the k-th nearest of as many points of other
    classes: 0 where classes coincide. Intervals resample groups (samples where there are none). A class with too few
    samples is undefined, and its reason says so. Raises InputError for what is no table of latents. All of it is our
    own choice: the paper's formula could not be read.
    """
    if latents.dim() != 2 or not latents.is_floating_point() or not bool(latents.isfinite().all()):
        raise InputError(f"found latents {tuple(latents.shape)} of {latents.dtype}, expected finite (N, D) numbers")
    if k < 1 or repeats < 1 or kind not in get_args(Kind) or (points is not None and points <= k):
        raise InputError(
            f"found k {k}, repeats {repeats}, kind {kind!r}, points {points}; expected k and repeats >= 1, one of "
            f"{', '.join(get_args(Kind))}, and more points than k"
        )
    x = latents if latents.dtype == torch.float64 else latents.float()
    x = F.normalize(x, dim=1) if normalise else x
    belongs = members(targets.to(x.device), len(x), classes)
    codes = group_codes(groups, len(x), x.device)
    counts: list[int] = belongs.sum(dim=0).tolist()
    size = points or min([MOST, *(n for n in counts if n > k)])
    also = " and in other classes" if kind == "contrast" else ""
    found: list[Estimate] = []
    for c, count in enumerate(counts):
        if count < (points or k + 1):
            found.append(Estimate.undefined(count, f"{count} samples, {points or k + 1} needed"))
            continue
        rows = belongs[:, c].nonzero().squeeze(1)
        others = (~belongs[:, c]).nonzero().squeeze(1) if kind == "contrast" else rows[:0]
        total, seen = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for repeat in range(repeats if size < count or len(others) > size else 1):
            mine = shuffled(count, seed, c, repeat)[:size]
            theirs = others[shuffled(len(others), seed, c, repeat, 1)[:size].to(x.device)]
            value = _values(x[rows[mine.to(x.device)]], k, codes[rows[mine.to(x.device)]], kind, x[theirs]).cpu()
            counted = value.isfinite()
            total[mine] += value.where(counted, 0.0)
            seen[mine] += counted
        found.append(_mean(total, seen, codes[rows], f"{k} neighbours in other groups{also}", seed))
    return found


def _values(own: Tensor, k: int, codes: Tensor, kind: Kind, others: Tensor) -> Tensor:
    """(m,) by point; inf or NaN where it has no k neighbours."""
    r = nearest(own, k, groups=codes).distance.double()
    near = r.clamp_min(_CLOSEST)
    if kind == "log":
        return -near[:, -1].log()
    if kind == "inverse":
        return (1 / near).mean(dim=1).where(r[:, -1] < torch.inf, torch.nan)
    return (nearest_in(others, own, k).distance[:, -1].double().clamp_min(_CLOSEST) / near[:, -1]).log()


def _mean(total: Tensor, seen: Tensor, codes: Tensor, wanted: str, seed: int) -> Estimate:
    count = len(total)
    if not bool(seen.any()):
        return Estimate.undefined(count, f"none of {count} samples has {wanted}")
    used = seen > 0
    total, seen, times = total[used], seen[used], times_drawn(codes[used.to(codes.device)], seed)
    return bootstrapped(float(total.sum() / seen.sum()), (times @ total) / (times @ seen), count)
