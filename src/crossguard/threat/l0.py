"""L0: at most eps values of a sample change, each as far as the bounds allow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from crossguard.core.batch import flat
from crossguard.core.errors import ThreatError
from crossguard.core.random import bits, combine, uniform
from crossguard.threat.ball import Ball, ahead, free_entries, largest
from crossguard.threat.budget import Budget
from crossguard.threat.constraints import JointWeights


@dataclass(frozen=True)
class L0Ball(Ball):
    """All points of a box with at most `radius` entries off `x`."""

    low: Tensor
    high: Tensor

    def project(self, y: Tensor) -> Tensor:
        # Keep the entries whose loss would cost the distance most (Croce and Hein, ICCV 2019, section 3).
        moved = torch.clamp(y, self.low, self.high)
        return self._keep(moved, (y - self.x).square() - (y - moved).square())

    def steepest(self, gradient: Tensor) -> Tensor:
        """The entries that gain most, moved to the end of their range."""
        g = torch.nan_to_num(gradient, nan=0.0)
        edge = torch.where(g == 0, self.x, torch.where(g > 0, self.high, self.low))
        return self._keep(edge, (edge - self.x) * g) - self.x

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Move the entries that already changed by `step_size` x their range, send the others to the end of theirs, and
        keep those that the gradient would miss most.

        Our choice: in small steps a new entry never outweighs one that is there (PGD-40 on a digits CNN left twice as
        many samples right), and kept by size, the entries of a random start would never leave.
        """
        g = torch.nan_to_num(gradient, nan=0.0)
        moved = torch.clamp(ahead(y, (self.high - self.low) * g.sign(), step_size), self.low, self.high)
        edge = torch.where(g == 0, self.x, torch.where(g > 0, self.high, self.low))
        point = torch.where(y == self.x, edge, moved)
        return self._keep(point, (point - self.x) * g)

    def uniform(self, key: Tensor) -> Tensor:
        count = math.prod(self.x.shape[1:])
        share = uniform(combine(key, 1), count).to(self.x.dtype).view_as(self.x).add(1).div(2)
        point = torch.clamp(self.low + share * (self.high - self.low), self.low, self.high)
        score, free = bits(key, count) >> 1, free_entries(self.mask, self.x)
        if free is not None:
            score = torch.where(free, score, torch.iinfo(score.dtype).min)
        return torch.where(largest(score, self.radius).view_as(point), point, self.x)

    def resized(self, radius: Tensor) -> Self:
        # A hair more, so that what rounding left of a whole number stays that number.
        return replace(self, radius=(radius + 1e-3).floor())

    def _keep(self, point: Tensor, score: Tensor) -> Tensor:
        """`point` at the entries of largest score, `x` elsewhere."""
        return torch.where(largest(flat(score), self.radius).view_as(point), point, self.x)


@dataclass(frozen=True)
class L0(Budget):
    """At most `eps` values of a sample change (a count, scaled budgets round down), each within the `bounds` and, if
    given, by at most `amplitude` in the modality's unit.

    Raises ThreatError where neither bounds nor amplitude say how far a value may go.
    """

    amplitude: float | None = None
    norm: ClassVar[str] = "l0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is None and self.amplitude is None:
            raise ThreatError(f"L0: {self.eps:g} values may change, but how far? Give bounds=(low, high) or amplitude")
        if self.amplitude is not None and not (math.isfinite(self.amplitude) and self.amplitude > 0):
            raise ThreatError(f"L0: amplitude is {self.amplitude}, expected a finite number > 0, or None")
        if any(isinstance(c, JointWeights) for c in self.constraints):
            raise ThreatError("L0 counts values, which weights do not change: leave joint_weights out")

    @property
    def active(self) -> bool:
        """Whether the budget allows any change."""
        return self.eps >= 1

    @property
    def grows(self) -> bool:
        return self.amplitude is None and super().grows

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) how many values may change, all at most."""
        return x.new_full((x.shape[0],), float(min(math.floor(self.eps), math.prod(x.shape[1:]))))

    def size(self, d: Tensor) -> Tensor:
        return flat(d != 0).sum(dim=1).to(d.dtype)

    def _change(self, y: Tensor, x: Tensor) -> Tensor:
        return y - x  # a changed value counts, however little it changed

    def _limits(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        low, high = super()._limits(x)
        if self.amplitude is None:
            return low, high
        below, above = x - self.amplitude, x + self.amplitude
        if low is None or high is None:
            return below, above
        return torch.maximum(below, low), torch.minimum(above, high)

    def _ball(self, x: Tensor, mask: Tensor | None, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Ball:
        assert low is not None
        assert high is not None
        return L0Ball(x, mask, radius, low, high)
