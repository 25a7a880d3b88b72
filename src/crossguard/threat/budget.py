"""What an attacker may do to one modality, in its unit.

A `Budget` is a frozen description: a norm, bounds and constraints; `budget.around(x, mask)` is the `Ball` of allowed
inputs around given samples.
"""

# No postponed annotations: recipes read those of every budget's fields, which its own module may not know by name.
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from crossguard.core.batch import expand_mask, flat, outside
from crossguard.core.errors import ThreatError
from crossguard.threat.ball import Ball, spread
from crossguard.threat.constrained import ConstrainedBall
from crossguard.threat.constraints import Constraint, JointWeights, Still
from crossguard.threat.weighted import WeightedBall

__all__ = ["Ball", "Budget", "spread"]

# Bounds hold the data up to this share of their width: float noise from decoding and resizing is not an error.
BOUNDS_SLACK = 1e-4
# A change counts as within the radius up to this factor, for the rounding of norms.
SLACK = 1 + 1e-5


@dataclass(frozen=True)
class Budget(ABC):
    """Common to all budgets: how large (`eps`, in the modality's unit unless the budget says otherwise), the `bounds`
    of valid values (None: unbounded), and `constraints` that hold besides the norm.

    Raises ThreatError for a negative or non-finite eps, bounds that are empty, or what is no constraint.
    """

    eps: float
    bounds: tuple[float, float] | None = None
    constraints: tuple[Constraint, ...] = ()
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        name = type(self).__name__
        for value in (self.eps, *(() if self.bounds is None else self.bounds)):
            try:
                math.isfinite(value)
            except TypeError:
                raise ThreatError(
                    f"{name}: found {value!r}, expected a number; a ratio is a text in recipes alone, write 8 / 255"
                ) from None
        self._check_eps()
        low, high = self.bounds if self.bounds is not None and len(self.bounds) == 2 else (0.0, 0.0)
        if self.bounds is not None and not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ThreatError(f"{name}: bounds are {self.bounds}, expected finite (low, high), low < high")
        kinds = [type(c) for c in self.constraints]
        for constraint in self.constraints:
            if not isinstance(constraint, Constraint):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ThreatError(f"{name}: found {constraint!r}, expected a tuple of constraints such as cg.Frames(8)")
            # Several windows may meet; two weightings or two grids of codes contradict each other.
            if not isinstance(constraint, Still) and kinds.count(type(constraint)) > 1:
                raise ThreatError(f"{name}: {constraint.kind} is given more than once; keep one of them")

    def _check_eps(self) -> None:
        if not math.isfinite(self.eps) or self.eps < 0:
            raise ThreatError(
                f"{type(self).__name__}: eps is {self.eps}, expected a finite number >= 0 in the modality's unit "
                f"(for an unbounded attack take the width of the bounds)"
            )

    @property
    def active(self) -> bool:
        """Whether the budget allows any change."""
        return self.eps > 0

    @property
    def grows(self) -> bool:
        """Whether, large enough, it allows all that the bounds do."""
        return all(c.lets_grow for c in self.constraints)

    def scaled(self, scale: float) -> Self:
        """The same budget, `scale` times as large; constraints stay as they are."""
        return replace(self, eps=self.eps * scale)

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) how far each sample may move, in the budget's norm and the modality's unit."""
        return x.new_full((x.shape[0],), self.eps)

    @property
    def _width(self) -> float:
        """How far the bounds let a value move; no limit where weights measure in other units."""
        weighted = any(isinstance(c, JointWeights) for c in self.constraints)
        return math.inf if self.bounds is None or weighted else self.bounds[1] - self.bounds[0]

    def _entries(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N,) how many entries of a sample are real, one at least: padding makes no room."""
        if mask is None:
            return x.new_full((x.shape[0],), max(math.prod(x.shape[1:]), 1))
        return flat(expand_mask(mask, x).expand_as(x)).sum(dim=1).clamp_min(1).to(x.dtype)

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ThreatError unless the bounds hold what is real of `x` and the constraints fit its shape."""
        for constraint in self.constraints:
            constraint.check(name, x, mask)
        if self.bounds is None:
            return
        low, high = self.bounds
        slack = BOUNDS_SLACK * (high - low)
        if found := outside(x, mask, low - slack, high + slack):
            raise ThreatError(
                f"modality {name!r}: values span [{found[0]:g}, {found[1]:g}], the budget's bounds are "
                f"[{low:g}, {high:g}]; give the bounds in the modality's own unit"
            )

    def around(self, x: Tensor, mask: Tensor | None = None) -> Ball:
        """The ball of allowed inputs around `x`; what `mask` leaves out never moves."""
        free, weight = self._free(x, mask), self._weight(x)
        low, high = self._box(x, free)
        radius = self.radius(x, mask)
        if weight is None:
            ball = self._ball(x, free, radius, low, high)
        else:
            # In d / weight the weighted ball is a plain one; around 0, so that no rounding of x is magnified.
            edges = [None if edge is None else (edge - x) / weight for edge in (low, high)]
            plain = self._ball(torch.zeros_like(x), free, radius, edges[0], edges[1])
            ball = WeightedBall(x, free, radius, plain, weight, low, high)
        coupled = tuple(c for c in self.constraints if not isinstance(c, Still | JointWeights))
        if not coupled:
            return ball
        return ConstrainedBall(x, free, radius, ball, mask, coupled, self.contains, self._outside)

    @abstractmethod
    def _ball(self, x: Tensor, mask: Tensor | None, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Ball:
        """The ball of this norm, cut by a box that is closed to `x` where it is masked (None: everything)."""

    @abstractmethod
    def size(self, d: Tensor) -> Tensor:
        """(N,) norm of a change."""

    def distance(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) distance in the budget's norm and the modality's unit, as `JointWeights` weigh it."""
        d = y - x
        return self.size(self._unweighted(d if mask is None else d * expand_mask(mask, x), x))

    def project(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The allowed input nearest to `y`."""
        return self.around(x, mask).project(y)

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) whether `y` is allowed: radius and bounds (up to rounding), constraints, masked parts untouched."""
        inside = self.size(self._change(y, x)) <= self.radius(x, mask) * SLACK
        inside &= ~flat(self._outside(y, x)).any(dim=1)
        free = self._free(x, mask)
        if free is not None:
            inside &= flat((y == x) | expand_mask(free, x)).all(dim=1)
        for constraint in self.constraints:
            inside &= constraint.contains(y, x, mask)
        return inside

    def _change(self, y: Tensor, x: Tensor) -> Tensor:
        """What each entry has changed, in weights, beyond what the sums that made `y` may have rounded."""
        rounding = 4 * torch.finfo(y.dtype).eps * (x.abs() + y.abs())
        return self._unweighted(((y - x).abs() - rounding).clamp_min(0), x)

    def _outside(self, y: Tensor, x: Tensor) -> Tensor:
        """The entries that are not allowed whatever the others do; NaN is not."""
        low, high = self._limits(x)
        return torch.isnan(y) if low is None or high is None else ~((y >= low) & (y <= high))

    def _free(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Where entries may move, by mask and constraints, broadcastable to `x`; None: everywhere."""
        still = [c.free(x) for c in self.constraints if isinstance(c, Still)]
        weight = self._weight(x, zero=0.0)
        if weight is not None:
            still.append(weight > 0)
        if not still:
            return mask
        free = torch.ones((x.shape[0], *(1,) * (x.dim() - 1)), dtype=torch.bool, device=x.device)
        for part in still:
            free = free & part
        return free if mask is None else free & expand_mask(mask, x)

    def _weight(self, x: Tensor, zero: float = 1.0) -> Tensor | None:
        """The weights in the shape of `x`, with `zero` for those of 0, which may not move at all."""
        for constraint in self.constraints:
            if isinstance(constraint, JointWeights):
                weight = constraint.weight(x)
                return torch.where(weight > 0, weight, zero).expand_as(x)
        return None

    def _unweighted(self, d: Tensor, x: Tensor) -> Tensor:
        weight = self._weight(x)
        return d if weight is None else d / weight

    def _limits(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The bounds, widened to `x` where rounding left `x` outside them (a budget of 0 changes nothing)."""
        if self.bounds is None:
            return None, None
        return x.clamp(max=self.bounds[0]), x.clamp(min=self.bounds[1])

    def _box(self, x: Tensor, free: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The range of each entry: its limits, closed to `x` where it may not move; None: no range."""
        low, high = self._limits(x)
        if free is None:
            return low, high
        keep = expand_mask(free, x)
        below, above = (-math.inf, math.inf) if low is None or high is None else (low, high)
        return torch.where(keep, below, x), torch.where(keep, above, x)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; constraints only where there are any."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        constraints = cast("tuple[Constraint, ...]", values.pop("constraints"))
        values["bounds"] = None if self.bounds is None else list(self.bounds)
        listed = {"constraints": [c.to_dict() for c in constraints]} if constraints else {}
        return {"norm": self.norm, **values, **listed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From JSON; the inverse of `to_dict`."""
        options = {k: v for k, v in data.items() if k != "norm"}
        if options.get("bounds") is not None:
            options["bounds"] = tuple(options["bounds"])
        options["constraints"] = tuple(Constraint.from_dict(c) for c in options.get("constraints", ()))
        return cls(**options)
