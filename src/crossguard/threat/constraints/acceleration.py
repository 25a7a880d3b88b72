"""The perturbation does not jerk: its second differences along time stay small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ThreatError
from crossguard.threat.ball import spread
from crossguard.threat.constraints.constraint import Constraint, check_axis

# What is out of range is brought this share of the limit inside, so that alternating projections end.
_INSIDE = 0.98


@dataclass(frozen=True)
class Acceleration(Constraint):
    """The second difference of the change along time, c[t-1] - 2 c[t] + c[t+1], is at most `limit` long.

    Its length is taken over the last axis (coordinates), or of single values where that is time. `limit` is in the
    modality's unit by frame squared; `relative`: in shares of the clean sample's largest. Steps that reach into
    masked frames do not count. The set is convex; the projection visits its steps in three rounds (Kaczmarz 1937).
    Raises ThreatError for a negative limit and an axis that is not there.
    """

    limit: float
    axis: int
    relative: bool = False
    kind: ClassVar[str] = "acceleration"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise ThreatError(f"Acceleration: limit is {self.limit}, expected a finite number >= 0")

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        check_axis(self.kind, self.axis, name, x)

    def project(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.shape[self.axis] < 3:
            return y
        limit = self._limit(x, mask)
        # In c, so that a constant pose does not swallow small changes; y itself where nothing is corrected.
        change = d = y - x
        counted = self._counted(x, mask)
        for turn in range(3):
            if turn + 2 >= x.shape[self.axis]:
                break
            middle = torch.arange(turn, x.shape[self.axis] - 2, 3, device=x.device)
            bend = self._bend(d).index_select(self.axis, middle)
            length = self._length(bend)
            excess = torch.where(length > limit, 1 - _INSIDE * limit / length, 0.0)
            part = bend * excess * counted.index_select(self.axis, middle) / 6
            # The nearest change with that second difference lies along (1, -2, 1), of squared length 6.
            for shift, weight in ((0, -1), (1, 2), (2, -1)):
                d = d.index_add(self.axis, middle + shift, part, alpha=weight)
        return torch.where(d == change, y, x + d)

    def shrink(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        # Each joint on its own; second differences are linear in the change, so one factor settles it.
        if x.shape[self.axis] < 3:
            return y
        d, limit = y - x, self._limit(x, mask)
        longest = (self._length(self._bend(d)) * self._counted(x, mask)).amax(dim=self.axis, keepdim=True)
        return torch.where(longest > limit, x + d * (limit / longest), y)

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.shape[self.axis] < 3:
            return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        rounding = 8 * torch.finfo(y.dtype).eps * x.abs().flatten(1).amax(dim=1)
        length = self._length(self._bend(y - x)) * self._counted(x, mask)
        return (length - self._limit(x, mask)).flatten(1).amax(dim=1) <= rounding

    def _limit(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The limit by sample, broadcastable to `x`."""
        if not self.relative:
            return x.new_full((1,) * x.dim(), self.limit)
        clean = self._length(self._bend(x)) * self._counted(x, mask)
        return spread(self.limit * clean.flatten(1).amax(dim=1), x)

    def _bend(self, d: Tensor) -> Tensor:
        """Second differences along time."""
        return d.diff(n=2, dim=self.axis)

    def _length(self, bend: Tensor) -> Tensor:
        if self.axis == bend.dim() - 1:
            return bend.abs()
        return torch.linalg.vector_norm(bend, dim=-1, keepdim=True)

    def _counted(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """1 for each second difference whose three frames are real, broadcastable to them."""
        real = x.new_ones((1,) * x.dim()) if mask is None else expand_mask(mask, x).to(x.dtype)
        sizes = [-1] * x.dim()
        sizes[self.axis] = x.shape[self.axis]
        return real.expand(sizes).unfold(self.axis, 3, 1).amin(dim=-1)
