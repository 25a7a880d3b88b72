"""What an attacker may do to one modality, in its unit.

A `Budget` is a frozen description; `budget.around(x, mask)` is the `Ball` of allowed inputs around given samples,
with everything precomputed that a search needs at every step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ThreatError
from crossguard.core.random import direction, uniform

# Bounds hold the data up to this share of their width: float noise from decoding and resizing is not an error.
BOUNDS_SLACK = 1e-4


@dataclass(frozen=True)
class Ball(ABC):
    """All inputs that a budget allows around `x`; every tensor leads with the sample axis, so `take` may index it."""

    x: Tensor
    mask: Tensor | None
    radius: Tensor

    @abstractmethod
    def project(self, y: Tensor) -> Tensor:
        """The nearest allowed input; `y` itself where it is allowed already."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The move of length `radius` in the budget's norm that gains most along `gradient`; NaN counts as 0."""

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Move `y` by `step_size` x the steepest move and project."""
        return self.project(torch.add(y, self.steepest(gradient), alpha=step_size))

    @abstractmethod
    def uniform(self, key: Tensor) -> Tensor:
        """A random allowed input, a function of the (N,) int64 keys alone."""


@dataclass(frozen=True)
class Budget(ABC):
    """Common to all budgets: `eps` in the modality's unit, `bounds` of valid values (None: unbounded).

    Raises ThreatError for a negative or non-finite eps, or bounds that are empty.
    """

    eps: float
    bounds: tuple[float, float] | None = None
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        if not math.isfinite(self.eps) or self.eps < 0:
            raise ThreatError(
                f"{type(self).__name__}: eps is {self.eps}, expected a finite number >= 0 in the modality's unit "
                f"(for an unbounded attack take the width of the bounds)"
            )
        if self.bounds is not None and not (all(map(math.isfinite, self.bounds)) and self.bounds[0] < self.bounds[1]):
            raise ThreatError(
                f"{type(self).__name__}: bounds are {self.bounds}, expected finite (low, high), low < high"
            )

    @property
    def active(self) -> bool:
        """Whether the budget allows any change."""
        return self.eps > 0

    def scaled(self, scale: float) -> Self:
        """The same budget, `scale` times as large."""
        return replace(self, eps=self.eps * scale)

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) how far each sample may move, in the budget's norm and the modality's unit."""
        return x.new_full((x.shape[0],), self.eps)

    def check(self, name: str, x: Tensor) -> None:
        """Raise ThreatError unless the bounds hold `x`."""
        if self.bounds is None or not x.numel():
            return
        low, high = self.bounds
        slack = BOUNDS_SLACK * (high - low)
        found_low, found_high = (float(v) for v in torch.aminmax(x.detach()))
        if found_low < low - slack or found_high > high + slack:
            raise ThreatError(
                f"modality {name!r}: values span [{found_low:g}, {found_high:g}], the budget's bounds are "
                f"[{low:g}, {high:g}]; give the bounds in the modality's own unit"
            )

    def box(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The bounds, widened to `x` where rounding left `x` outside them (a budget of 0 changes nothing)."""
        if self.bounds is None:
            return -math.inf, math.inf
        return x.clamp(max=self.bounds[0]), x.clamp(min=self.bounds[1])

    @abstractmethod
    def around(self, x: Tensor, mask: Tensor | None = None) -> Ball:
        """The ball of allowed inputs around `x`; what `mask` leaves out never moves."""

    @abstractmethod
    def distance(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) distance in the budget's norm and the modality's unit."""

    def project(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The allowed input nearest to `y`."""
        return self.around(x, mask).project(y)

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) whether `y` is allowed: within the radius and the bounds (up to rounding), masked parts untouched."""
        ulps = 4 * torch.finfo(y.dtype).eps
        scale = x.detach().abs().flatten(1).amax(dim=1) if x[0].numel() else x.new_zeros(x.shape[0])
        slack = self.radius(x, mask) * 1e-5 + ulps * (scale + self.eps) * self._rounding(x)
        inside = self.distance(y, x, None) <= slack + self.radius(x, mask)
        if self.bounds is not None:
            low, high = self.box(x)
            inside &= ((y >= low) & (y <= high)).flatten(1).all(dim=1)
        if mask is not None:
            inside &= ((y == x) | expand_mask(mask, x)).flatten(1).all(dim=1)
        return inside

    def _rounding(self, x: Tensor) -> float:
        """How the rounding of single entries adds up in this norm."""
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "norm": self.norm,
            "eps": self.eps,
            "bounds": None if self.bounds is None else list(self.bounds),
        }


def flat_norm(d: Tensor) -> Tensor:
    """(N,) Euclidean norm over all but the first axis."""
    return torch.linalg.vector_norm(d.flatten(1), dim=1)


def spread(v: Tensor, x: Tensor) -> Tensor:
    """(N,) values made broadcastable to `x`."""
    return v.view(-1, *(1,) * (x.dim() - 1))


def shaped_uniform(key: Tensor, x: Tensor) -> Tensor:
    """Uniform numbers on [-1, 1] in the shape and type of `x`."""
    return uniform(key, x[0].numel()).to(x.dtype).view_as(x)


def shaped_direction(key: Tensor, x: Tensor) -> Tensor:
    """Unit vectors in the shape of `x`, float64."""
    return direction(key, x[0].numel()).view_as(x)
