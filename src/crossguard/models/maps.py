"""What can be said of attention maps (N, heads, queries, keys), each answer (N, heads), and of what they gather.

A query is real where its row is not 0 throughout; means are over real queries, and 0 where a sample has none.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from crossguard.core.errors import ModelError

Distance: TypeAlias = Literal["kl", "js", "frobenius"]


def drift(clean: Tensor, attacked: Tensor, distance: Distance = "kl") -> Tensor:
    """The mean over queries of how far a row moved, 0 log 0 = 0: KL(clean || attacked) or Jensen-Shannon in nats, or
    the squared Euclidean distance ("frobenius": that of the whole map over its queries)."""
    if clean.shape != attacked.shape:
        raise ModelError(
            f"attention maps of shapes {tuple(clean.shape)} and {tuple(attacked.shape)}, expected the same"
        )
    a, b = _full(clean), _full(attacked)
    if distance == "frobenius":
        rows = (a - b).square().sum(dim=3)
    elif distance == "js":
        middle = (a + b) / 2
        rows = (_relative(a, middle) + _relative(b, middle)) / 2
    else:
        rows = _relative(a, b)
    return _over_queries(rows, _real(a))


def smoothness(a: Tensor) -> Tensor:
    """The sum over queries t of |A[t] - A[t - 1]|^2, where both are real; 0 for a single query."""
    a = _full(a)
    real = _real(a)
    return ((a[:, :, 1:] - a[:, :, :-1]).square().sum(dim=3) * (real[:, :, 1:] & real[:, :, :-1])).sum(dim=2)


def entropy(a: Tensor) -> Tensor:
    """The mean over queries of the rows' entropy, in shares of log(keys that any query looks at): 1 is uniform."""
    a = _full(a)
    rows = -(a * a.clamp_min(_tiny(a)).log()).sum(dim=3)
    most = (a.amax(dim=2) > 0).sum(dim=2).clamp_min(2).to(a.dtype).log()
    return _over_queries(rows, _real(a)) / most


def there(a: Tensor) -> Tensor:
    """(N, heads) bool: whether a sample has a real query, so that means over its queries are of something."""
    return _real(a).any(dim=2)


def received(a: Tensor) -> Tensor:
    """(N, keys): what each key is given, a mean over heads and real queries."""
    a = _full(a)
    real = _real(a).any(dim=1)
    return a.mean(dim=1).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp_min(1)


def displacement(clean: Tensor, attacked: Tensor) -> Tensor:
    """(heads,): how far what heads gather (N, heads, queries, channels) was moved, in shares of how much it varies: the
    sum of |attacked - clean|^2 over that of |clean - its mean over samples and queries|^2; 0 where it varies not."""
    a, b = _full(clean), _full(attacked)
    real = (a.detach() != 0).any(dim=3, keepdim=True)
    centre = a.sum(dim=(0, 2), keepdim=True) / real.sum(dim=(0, 2), keepdim=True).clamp_min(1)
    varies = ((a - centre) * real).square().sum(dim=(0, 2, 3))
    # Of a single sample and query, say, rounding alone is left of it.
    enough = varies > 1e-6 * a.square().sum(dim=(0, 2, 3))
    return (a - b).square().sum(dim=(0, 2, 3)) / varies.where(enough, torch.inf)


def mean_over_samples(values: Tensor, a: Tensor) -> Tensor:
    """The mean of (N, heads) over heads and the samples of `a` that have a real query."""
    real = there(a).any(dim=1).to(values.dtype)
    return (values.mean(dim=1) * real).sum() / real.sum().clamp_min(1)


def _relative(a: Tensor, b: Tensor) -> Tensor:
    # Clamped rather than xlogy: its gradient at 0 is not finite.
    tiny = _tiny(a)
    return (a * (a.clamp_min(tiny).log() - b.clamp_min(tiny).log())).sum(dim=3)


def _real(a: Tensor) -> Tensor:
    """(N, heads, queries)."""
    return a.detach().amax(dim=3) > 0


def _over_queries(rows: Tensor, real: Tensor) -> Tensor:
    return (rows * real).sum(dim=2) / real.sum(dim=2).clamp_min(1)


def _tiny(a: Tensor) -> float:
    return torch.finfo(a.dtype).tiny


def _full(a: Tensor) -> Tensor:
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a
