"""Do two rankings agree, and do they still once what explains both is taken away?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crossguard.core.errors import InputError
from crossguard.core.estimate import Z95, Estimate

LEAST = 5


def ranks(values: Tensor) -> Tensor:
    """(N,) ranks from 1, equal values sharing their mean; inf may be among them."""
    _, place, count = values.double().unique(return_inverse=True, return_counts=True)
    return (count.cumsum(dim=0) - (count.double() - 1) / 2)[place]


def rank_correlation(x: Tensor, y: Tensor, given: Sequence[Tensor] = ()) -> Estimate:
    """Spearman's rank correlation of (N,) and (N,), partial `given` further (N,): that of what is left of the ranks
    after a linear fit on the others' ranks.

    Rows with NaN anywhere do not count. The interval is Fisher's, with the variance (1 + r^2 / 2) / (N - 3 - others) of
    Bonett and Wright (Psychometrika, 2000). Undefined below 5 + others rows, or where one side does not vary.
    """
    columns = [v.double() for v in (x, y, *given)]
    if len({tuple(v.shape) for v in columns}) != 1 or x.dim() != 1:
        raise InputError(f"found shapes {[tuple(v.shape) for v in columns]}, expected (N,) for all of them")
    kept = ~torch.stack(columns).isnan().any(dim=0)
    n, others = int(kept.sum()), len(given)
    if n < LEAST + others:
        return Estimate.undefined(n, f"{n} rows, {LEAST + others} needed")
    table = torch.stack([ranks(v[kept]) for v in columns], dim=1)
    table = table - table.mean(dim=0)
    left = table[:, :2]
    if others:
        # By the pseudo-inverse: of controls that do not vary, or say the same, nothing is taken twice.
        left = left - table[:, 2:] @ (torch.linalg.pinv(table[:, 2:]) @ left)
    norms = left.norm(dim=0)
    if bool((norms <= 1e-9 * table[:, :2].norm(dim=0).clamp_min(1.0)).any()):
        return Estimate.undefined(n, "one side does not vary")
    r = min(max(float(left[:, 0] @ left[:, 1] / norms.prod()), -1.0), 1.0)
    half = Z95 * math.sqrt((1 + r * r / 2) / (n - 3 - others))
    # Of rankings that agree, no surer than if one pair of neighbours were swapped (our choice).
    most = 1 - 12 / (n**3 - n)
    centre = math.atanh(min(max(r, -most), most))
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    return Estimate(r, min(low, r), max(high, r), n)
