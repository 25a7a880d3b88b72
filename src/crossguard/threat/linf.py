"""L-infinity: every value may change by at most eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.batch import expand_mask
from crossguard.threat.budget import Ball, Budget, shaped_uniform


@dataclass(frozen=True)
class LinfBall(Ball):
    """A box: projection is one clamp."""

    low: Tensor
    high: Tensor
    eps: float

    def project(self, y: Tensor) -> Tensor:
        return torch.clamp(y, self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign().mul_(self.eps)

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return torch.clamp(torch.add(y, gradient.sign(), alpha=step_size * self.eps), self.low, self.high)

    def uniform(self, key: Tensor) -> Tensor:
        return self.project(torch.add(self.x, shaped_uniform(key, self.x), alpha=self.eps))


@dataclass(frozen=True)
class Linf(Budget):
    """Every value may change by at most `eps`, in the modality's unit."""

    norm: ClassVar[str] = "linf"

    def around(self, x: Tensor, mask: Tensor | None = None) -> LinfBall:
        low, high = self.box(x)
        low, high = (x - self.eps).clamp_(min=low), (x + self.eps).clamp_(max=high)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if mask is not None:
            keep = expand_mask(mask, x)
            low, high = torch.where(keep, low, x), torch.where(keep, high, x)
        return LinfBall(x, mask, self.radius(x, mask), low, high, self._width())

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) eps, or the width of the bounds where that is smaller."""
        return x.new_full((x.shape[0],), self._width())

    def _width(self) -> float:
        return self.eps if self.bounds is None else min(self.eps, self.bounds[1] - self.bounds[0])

    def distance(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        d = (y - x).abs()
        if mask is not None:
            d = d * expand_mask(mask, x)
        return d.flatten(1).amax(dim=1)
