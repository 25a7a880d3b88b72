"""L-infinity: every value may change by at most eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.threat.ball import Ball, ahead, shaped_uniform
from crossguard.threat.budget import SLACK, Budget


@dataclass(frozen=True)
class LinfBall(Ball):
    """A box: projection is one clamp."""

    low: Tensor
    high: Tensor
    eps: float

    @property
    def entrywise(self) -> bool:
        return True

    def project(self, y: Tensor) -> Tensor:
        return torch.clamp(y, self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign().mul_(self.eps)

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        return torch.clamp(ahead(y, gradient.sign(), step_size * self.eps), self.low, self.high)

    def uniform(self, key: Tensor) -> Tensor:
        return self.project(torch.add(self.x, shaped_uniform(key, self.x), alpha=self.eps))


@dataclass(frozen=True)
class Linf(Budget):
    """Every value may change by at most `eps`, in the modality's unit."""

    norm: ClassVar[str] = "linf"

    def _ball(self, x: Tensor, mask: Tensor | None, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Ball:
        # From eps itself, not the width of the bounds: x + width rounds to a hair below a bound.
        below, above = x - self.eps, x + self.eps
        if low is not None and high is not None:
            below, above = torch.maximum(below, low), torch.minimum(above, high)
        return LinfBall(x, mask, radius, below, above, min(self.eps, self._width))

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) eps, or the width of the bounds where that is smaller."""
        return x.new_full((x.shape[0],), min(self.eps, self._width))

    def _outside(self, y: Tensor, x: Tensor) -> Tensor:
        return super()._outside(y, x) | (self._change(y, x) > min(self.eps, self._width) * SLACK)

    def size(self, d: Tensor) -> Tensor:
        return d.abs().flatten(1).amax(dim=1)
