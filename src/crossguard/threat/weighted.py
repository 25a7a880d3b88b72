"""A ball whose norm weighs entries: a plain ball in other variables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from crossguard.threat.ball import Ball, within


@dataclass(frozen=True)
class WeightedBall(Ball):
    """All x + weight * c with c in `plain`, a ball around 0; `low` and `high` are the box of the point itself."""

    plain: Ball
    weight: Tensor
    low: Tensor | None
    high: Tensor | None

    @property
    def entrywise(self) -> bool:
        return self.plain.entrywise

    def project(self, y: Tensor) -> Tensor:
        change = (y - self.x) / self.weight
        nearest = self.plain.project(change)
        return within(torch.where(nearest == change, y, self._point(nearest)), self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        return self.plain.steepest(gradient * self.weight) * self.weight

    def uniform(self, key: Tensor) -> Tensor:
        return self._point(self.plain.uniform(key))

    def resized(self, radius: Tensor) -> Self:
        return replace(self, radius=radius, plain=self.plain.resized(radius))

    def _point(self, change: Tensor) -> Tensor:
        return within(self.x + self.weight * change, self.low, self.high)
