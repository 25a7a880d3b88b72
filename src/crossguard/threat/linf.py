"""L-infinity: every value may change by at most eps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from crossguard.core.batch import flat
from crossguard.threat.ball import Ball, ahead, shaped_uniform, spread
from crossguard.threat.budget import SLACK, Budget


@dataclass(frozen=True)
class LinfBall(Ball):
    """A box: projection is one clamp."""

    low: Tensor
    high: Tensor
    eps: float | Tensor

    @property
    def entrywise(self) -> bool:
        return True

    def project(self, y: Tensor) -> Tensor:
        return torch.clamp(y, self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign().mul_(spread(self.eps, gradient) if isinstance(self.eps, Tensor) else self.eps)

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        return torch.clamp(ahead(y, gradient.sign(), step_size * self.eps), self.low, self.high)

    def uniform(self, key: Tensor) -> Tensor:
        return self.project(ahead(self.x, shaped_uniform(key, self.x), self.eps))

    def resized(self, radius: Tensor) -> Self:
        eps = spread(radius, self.x)
        low, high = torch.maximum(self.low, self.x - eps), torch.minimum(self.high, self.x + eps)
        return replace(self, radius=radius, low=low, high=high, eps=radius)


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
        return flat(d.abs()).amax(dim=1)
