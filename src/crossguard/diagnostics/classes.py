"""What diagnostics by class share: who is in a class, who is drawn, and how sure a mean over resampled groups is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossguard.core.errors import InputError
from crossguard.core.estimate import Estimate, wilson
from crossguard.core.random import bits, combine, text_key

DRAWS = 400


def members(targets: Tensor, samples: int, classes: int | None = None) -> Tensor:
    """(N, C) bool: which samples are of which class, of (N,) class numbers or (N, C) zeros and ones."""
    if targets.shape[:1] != (samples,) or targets.dim() not in (1, 2):
        raise InputError(
            f"found targets of shape {tuple(targets.shape)} for {samples} latents, expected (N,) or (N, C)"
        )
    if targets.dim() == 2:
        return targets.bool()
    count = classes or (int(targets.max()) + 1 if samples else 0)
    return targets[:, None] == torch.arange(count, device=targets.device)


def group_codes(groups: Sequence[str] | None, samples: int, device: torch.device) -> Tensor:
    """(N,) whole numbers, one a group; every sample its own without groups."""
    if not groups:
        return torch.arange(samples, device=device)
    if len(groups) != samples:
        raise InputError(f"found {len(groups)} groups for {samples} samples, expected one label a sample")
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return torch.tensor([number[name] for name in groups], device=device)


def shuffled(count: int, *key: int) -> Tensor:
    """(count,) the numbers below `count` in an order that is a function of the key alone."""
    return bits(combine(torch.tensor([text_key("shuffled")]), *key), count)[0].argsort(stable=True)


def times_drawn(codes: Tensor, seed: int, draws: int = DRAWS) -> Tensor:
    """(draws, N) how often each sample is drawn where groups are drawn with replacement, then samples within them."""
    _, code = codes.cpu().unique(return_inverse=True)
    if int(code.max()) == 0:  # one group tells nothing apart
        code = torch.arange(len(code))
    sizes = code.bincount()
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(len(sizes), (draws, len(sizes)), generator=generator)
    # A place for each sample of a drawn group, which any of the group may take.
    group = groups.flatten().repeat_interleave(sizes[groups].flatten())
    taken = (torch.rand(len(group), generator=generator, dtype=torch.float64) * sizes[group]).long()
    sample = code.argsort(stable=True)[(sizes.cumsum(dim=0) - sizes)[group] + taken]
    draw = torch.arange(draws).repeat_interleave(sizes[groups].sum(dim=1))
    return (draw * len(code) + sample).bincount(minlength=draws * len(code)).view(draws, -1).double()


def bootstrapped(value: float, drawn: Tensor, n: int, reason: str = "") -> Estimate:
    """The value with the middle 95 % of what was drawn; draws without any sample (NaN) do not count."""
    finite = drawn[drawn.isfinite()]
    if not len(finite):
        return Estimate.undefined(n, reason)
    low, high = torch.quantile(finite, torch.tensor([0.025, 0.975], dtype=finite.dtype)).tolist()
    return Estimate(value, min(low, value), max(high, value), n)


def share_of(hits: Tensor, n: int, weights: Tensor) -> Estimate:
    """The share of (P,) hits of pairs of `n` points, (draws, P) weights by draw. Where nothing varies over the draws,
    the interval is what n / 2 independent pairs leave open."""
    right = hits.double()
    value = float(right.mean())
    found = bootstrapped(value, (weights @ right) / weights.sum(dim=1), n)
    if found.defined and found.high - found.low > 1e-9:
        return found
    low, high = wilson(value * (n // 2), n // 2)
    return Estimate(value, min(low, value), max(high, value), n)
