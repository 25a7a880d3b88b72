"""The allowed inputs around given samples, with everything precomputed that a search needs at every step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from crossguard.core.batch import expand_mask, flat
from crossguard.core.random import direction, uniform

# Projections stay this hair inside, so that the rounding of x + d does not leave the ball.
INSIDE = 1 - 1e-6


@dataclass(frozen=True)
class Ball(ABC):
    """All inputs that a budget allows around `x`; every tensor leads with the sample axis, so `take` may index it.

    `mask` says which entries may move (None: all of them).
    """

    x: Tensor
    mask: Tensor | None
    radius: Tensor

    @property
    def entrywise(self) -> bool:
        """Whether each entry has a range of its own, whatever the others do."""
        return False

    @abstractmethod
    def project(self, y: Tensor) -> Tensor:
        """The nearest allowed input; `y` itself where it is allowed already."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The move of length `radius` in the budget's norm that gains most along `gradient`; NaN counts as 0."""

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Move `y` by `step_size` (one number, or (N,) of them) x the steepest move and project."""
        return self.project(ahead(y, self.steepest(gradient), step_size))

    @abstractmethod
    def uniform(self, key: Tensor) -> Tensor:
        """A random allowed input, a function of the (N,) int64 keys alone."""

    def resized(self, radius: Tensor) -> Self:
        """The same ball with another (N,) radius, at most its own; constraints stay as they are."""
        return replace(self, radius=radius)

    def shown(self, y: Tensor) -> Tensor:
        """The input that stands for `y` before the model: the representable and allowed one."""
        return y

    def repair(self, y: Tensor) -> Tensor:
        """An input near any `y` that `Budget.contains` accepts, whatever the constraints; NaN is clean again."""
        return self.project(torch.where(y.isfinite(), y, self.x))


@dataclass(frozen=True)
class BoxedBall(Ball):
    """A ball that may be cut by a box: `low` and `high` bound its values, `below` and `above` the change (0 where
    masked). Both are kept because x + (low - x) may be a rounding error below low."""

    low: Tensor | None
    high: Tensor | None
    below: Tensor | None
    above: Tensor | None

    @classmethod
    def cut(cls, x: Tensor, mask: Tensor | None, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Self:
        """The ball around `x`, cut by a box or, without one, whole."""
        if low is None or high is None:
            return cls(x, mask, radius, None, None, None, None)
        return cls(x, mask, radius, low, high, low - x, high - x)


def flat_norm(d: Tensor) -> Tensor:
    """(N,) Euclidean norm over all but the first axis."""
    return torch.linalg.vector_norm(flat(d), dim=1)


def spread(v: Tensor, x: Tensor) -> Tensor:
    """(N,) values made broadcastable to `x`."""
    return v.view(-1, *(1,) * (x.dim() - 1))


def ahead(y: Tensor, move: Tensor, step_size: float | Tensor) -> Tensor:
    """`y` + `step_size` x `move`, for one step size or (N,) of them."""
    if isinstance(step_size, Tensor):
        return torch.addcmul(y, move, spread(step_size, y).to(y.dtype))
    return torch.add(y, move, alpha=step_size)


def blend(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` where the (N,) flags are set, `no` elsewhere; both finite. Exact, and faster than `where`, which does not
    vectorise a broadcast condition."""
    return torch.lerp(no, yes, spread(flags, no).to(no.dtype))


def shaped_uniform(key: Tensor, x: Tensor) -> Tensor:
    """Uniform numbers on [-1, 1] in the shape and type of `x`."""
    return uniform(key, math.prod(x.shape[1:])).to(x.dtype).view_as(x)


def shaped_direction(key: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Unit vectors in the shape of `x`, float64, of the entries that `mask` lets move."""
    return direction(key, math.prod(x.shape[1:]), free_entries(mask, x)).view_as(x)


def free_entries(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """(N, K) whether an entry of `x` may move, of a mask over leading axes; None: all of them."""
    return None if mask is None else flat(expand_mask(mask, x).expand_as(x))


def largest(score: Tensor, count: Tensor) -> Tensor:
    """(N, K) whether an entry is among the (N,) `count` largest of its row; the earlier of two equal ones."""
    order = score.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, rank) < count[:, None]


def within(y: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """`y` clipped to a box that may be absent."""
    return y if low is None or high is None else torch.clamp(y, low, high)
