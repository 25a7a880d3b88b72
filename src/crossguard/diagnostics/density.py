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
    over the k nearest; "contrast" the mean of log(r'_k / r_k), r'_k to the k-th nearest of other classes, each from as
    many points outside of a point's group: 0 where classes coincide. Intervals resample groups (samples where there
    are none). A class with too few samples is undefined, and its reason says so. Raises InputError for what is no table
    of latents. All of it is our own choice: the paper's formula could not be read.
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
    also = " of its class and of others" if kind == "contrast" else ""
    found: list[Estimate] = []
    for c, count in enumerate(counts):
        if count < (points or k + 1):
            found.append(Estimate.undefined(count, f"{count} samples, {points or k + 1} needed"))
            continue
        rows = belongs[:, c].nonzero().squeeze(1)
        others = (~belongs[:, c]).nonzero().squeeze(1) if kind == "contrast" else rows[:0]
        total, seen = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for repeat in range(repeats if size < count or kind == "contrast" else 1):
            mine = shuffled(count, seed, c, repeat)[:size]
            own, theirs = rows[mine.to(x.device)], others[shuffled(len(others), seed, c, repeat, 1).to(x.device)]
            point = _contrasts(x, codes, own, theirs, k) if kind == "contrast" else _values(x, codes, own, k, kind)
            value = point.cpu()
            counted = value.isfinite()
            total[mine] += value.where(counted, 0.0)
            seen[mine] += counted
        found.append(_mean(total, seen, codes[rows], f"{k} neighbours in other groups{also}", seed))
    return found


def _values(x: Tensor, codes: Tensor, own: Tensor, k: int, kind: Kind) -> Tensor:
    """(m,) of the points `own`; inf or NaN where one has no k neighbours."""
    r = nearest(x[own], k, groups=codes[own]).distance.double()
    near = r.clamp_min(_CLOSEST)
    if kind == "log":
        return -near[:, -1].log()
    return (1 / near).mean(dim=1).where(r[:, -1] < torch.inf, torch.nan)


def _contrasts(x: Tensor, codes: Tensor, own: Tensor, others: Tensor, k: int) -> Tensor:
    """(m,) of the points `own`, both sides shuffled; inf or NaN where one has no k neighbours on either."""
    sides = (own, others)
    count = len(codes)
    wanted = torch.stack([len(side) - codes[side].bincount(minlength=count) for side in sides]).amin(dim=0)
    far: list[Tensor] = []
    for side in sides:
        reach = _reach(codes[side], wanted)[codes[own]]
        bank = side[: int(reach.max())]
        found = nearest_in(x[bank], x[own], k, groups=(codes[own], codes[bank]), first=reach)
        far.append(found.distance[:, -1].double().clamp_min(_CLOSEST))
    return (far[1] / far[0]).log()


def _reach(codes: Tensor, wanted: Tensor) -> Tensor:
    """(G,) how many of the first points of groups `codes` hold `wanted` (G,) that are not of the group itself."""
    place = torch.arange(len(codes), device=codes.device)
    sizes = codes.bincount(minlength=len(wanted))
    order = codes.argsort(stable=True)
    within = torch.empty_like(place)
    within[order] = place - (sizes.cumsum(dim=0) - sizes)[codes[order]]
    # Ahead of a point of the group lie place - within that are not.
    return wanted + codes[place - within < wanted[codes]].bincount(minlength=len(wanted))


def _mean(total: Tensor, seen: Tensor, codes: Tensor, wanted: str, seed: int) -> Estimate:
    count = len(total)
    if not bool(seen.any()):
        return Estimate.undefined(count, f"none of {count} samples has {wanted}")
    used = seen > 0
    total, seen, times = total[used], seen[used], times_drawn(codes[used.to(codes.device)], seed)
    return bootstrapped(float(total.sum() / seen.sum()), (times @ total) / (times @ seen), count)
