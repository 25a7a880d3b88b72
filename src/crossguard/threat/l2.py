"""L2: the change of a sample has a Euclidean norm of at most eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.batch import expand_mask, flat
from crossguard.core.random import combine, uniform
from crossguard.threat.ball import INSIDE, Ball, BoxedBall, flat_norm, shaped_direction, spread, within
from crossguard.threat.budget import Budget

_WATER_STEPS = 8


@dataclass(frozen=True)
class L2Ball(BoxedBall):
    """A Euclidean ball, cut by a box where there is one."""

    def project(self, y: Tensor) -> Tensor:
        d = y - self.x
        radius = self.radius.clamp_min(0)
        if self.below is None or self.above is None:
            norm = flat_norm(d)
            shrink = torch.where(norm > radius, radius * INSIDE / norm, 1.0)
            return torch.where(spread(norm <= radius, d), y, self.x + d * spread(shrink, d))
        # Nearest point of ball and box: x + clip(s d), the largest s <= 1 that stays in the ball (KKT). The free
        # entries' share grows s from below, so every iterate is allowed and the last few steps are exact.
        clipped = torch.clamp(d, self.below, self.above)
        inside = flat_norm(clipped) <= radius
        s = (radius * INSIDE / flat_norm(d).clamp_min(torch.finfo(d.dtype).tiny)).clamp_max(1.0)
        for _ in range(_WATER_STEPS):
            scaled = d * spread(s, d)
            moved = torch.clamp(scaled, self.below, self.above)
            free = moved == scaled
            fixed = flat(moved * ~free).square().sum(dim=1)
            spare = flat(d * free).square().sum(dim=1)
            grown = ((radius * INSIDE).square() - fixed).clamp_min(0).div(spare.clamp_min(1e-30)).sqrt()
            s = torch.where(spare > 0, torch.maximum(s, grown.clamp_max(1.0)), s)
        moved = torch.where(spread(inside, d), clipped, torch.clamp(d * spread(s, d), self.below, self.above))
        return within(torch.where(moved == d, y, self.x + moved), self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        g = torch.nan_to_num(gradient, nan=0.0)
        g = g if self.mask is None else g * expand_mask(self.mask, g)
        # Divide by the largest entry first: squares of tiny gradients would underflow.
        largest = flat(g).abs().amax(dim=1)
        g = g / spread(torch.where(largest > 0, largest, 1.0), g)
        norm = flat_norm(g)
        return g * spread(torch.where(norm > 0, self.radius / norm.clamp_min(1e-30), 0.0), g)

    def uniform(self, key: Tensor) -> Tensor:
        share = (uniform(combine(key, 1), 1).squeeze(1).abs()).sqrt() * INSIDE
        d = shaped_direction(key, self.x, self.mask) * spread(share * self.radius.double(), self.x)
        y = self.x + d.to(self.x.dtype)
        return (
            y
            if self.below is None
            else within(self.x + within(y - self.x, self.below, self.above), self.low, self.high)
        )


@dataclass(frozen=True)
class L2(Budget):
    """The change of a sample has a Euclidean norm of at most `eps`, in the modality's unit."""

    norm: ClassVar[str] = "l2"

    def _ball(self, x: Tensor, mask: Tensor | None, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Ball:
        return L2Ball.cut(x, mask, radius, low, high)

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) eps, or the diagonal of the bounds where that is smaller."""
        return (self._entries(x, mask).sqrt() * self._width).clamp_max(self.eps)

    def size(self, d: Tensor) -> Tensor:
        return flat_norm(d)
