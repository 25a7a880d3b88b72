"""L1: the changes of a sample's values sum to at most eps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.batch import flat
from crossguard.core.random import combine, uniform
from crossguard.threat.ball import INSIDE, Ball, BoxedBall, ahead, blend, free_entries, spread, within
from crossguard.threat.budget import Budget


@dataclass(frozen=True)
class L1Ball(BoxedBall):
    """An L1 ball, cut by a box where there is one."""

    def project(self, y: Tensor) -> Tensor:
        # The nearest change shrinks every |d| by one lambda and stops at the box (Croce and Hein, ICML 2021).
        d = y - self.x
        size, room = flat(d).abs().double(), self._room(d).double()
        inside = torch.minimum(size, room).sum(dim=1) <= self.radius
        radius = self.radius.clamp_min(0).double() * INSIDE
        # Its length is sum_j sign_j (b_j - lambda)+ over the breakpoints b: |d| (+) and |d| - room (-). From the
        # largest breakpoint down it grows; lambda lies on the last piece that starts within the radius.
        breaks = torch.cat([size, (size - room).clamp_min(0)], dim=1)
        breaks, order = breaks.sort(dim=1, descending=True)
        signs = torch.where(order < size.shape[1], 1.0, -1.0).double()
        level, slope = (signs * breaks).cumsum(dim=1), signs.cumsum(dim=1)
        piece = ((level - breaks * slope) <= radius[:, None]).sum(dim=1, keepdim=True).sub(1).clamp_min(0)
        shrink = (level.gather(1, piece) - radius[:, None]) / slope.gather(1, piece).clamp_min(1)
        shrink = torch.where(inside[:, None], 0.0, shrink.clamp_min(0))
        moved = torch.minimum((size - shrink).clamp_min(0), room).to(d.dtype).view_as(d) * d.sign()
        return within(torch.where(moved == d, y, self.x + moved), self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Fill the entries to their bounds, largest gradient first, until the radius is spent."""
        # The exact optimum inside ball and box, as Croce and Hein (ICML 2021) derive it; without a box, a single entry.
        # Steps of one size on a fixed share of the entries (Tramer and Boneh 2019) found less in our trials.
        g = torch.nan_to_num(gradient, nan=0.0)
        size, order = flat(g).abs().sort(dim=1, descending=True, stable=True)
        room = torch.where(size > 0, self._room(g).gather(1, order), 0.0).double()
        spent = room.cumsum(dim=1)
        move = torch.minimum(room, (self.radius[:, None] - spent + room).clamp_min(0))
        return torch.zeros_like(move).scatter(1, order, move).to(g.dtype).view_as(g) * g.sign()

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """The better of the projected step and the step towards the end of the steepest move, to first order.

        Our choice: the first alone is not at rest at the worst case of a linear model in a box (up to 7 % short), the
        second (Frank and Wolfe, 1956) alone finds less on networks.
        """
        g = torch.nan_to_num(gradient, nan=0.0)
        move = self.steepest(g)
        projected = self.project(ahead(y, move, step_size))
        share = step_size.clamp(max=1.0) if isinstance(step_size, Tensor) else min(step_size, 1.0)
        between = self.project(ahead(y, self.x + move - y, share))
        return blend(flat((between - projected) * g).sum(dim=1) > 0, between, projected)

    def uniform(self, key: Tensor) -> Tensor:
        # Multiples of 2^-23 sum exactly in any order, so that batches and devices agree to the bit.
        d, free = uniform(key, math.prod(self.x.shape[1:])), free_entries(self.mask, self.x)
        d = d if free is None else d * free
        share = uniform(combine(key, 1), 1).abs() * INSIDE * self.radius.double()[:, None]
        d = (d / d.abs().sum(dim=1, keepdim=True).clamp_min(1e-30) * share).to(self.x.dtype).view_as(self.x)
        return within(self.x + within(d, self.below, self.above), self.low, self.high)

    def _room(self, d: Tensor) -> Tensor:
        """(N, K) how far each entry may go in the direction of `d`."""
        if self.below is None or self.above is None:
            return flat(spread(self.radius, d).expand_as(d))
        free = flat(torch.where(d < 0, -self.below, self.above))
        return torch.minimum(free, self.radius[:, None])


@dataclass(frozen=True)
class L1(Budget):
    """The absolute changes of a sample's values sum to at most `eps`, in the modality's unit."""

    norm: ClassVar[str] = "l1"

    def _ball(self, x: Tensor, mask: Tensor | None, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Ball:
        return L1Ball.cut(x, mask, radius, low, high)

    def radius(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N,) eps, or the sum of all widths of the bounds where that is smaller."""
        return (self._entries(x, mask) * self._width).clamp_max(self.eps)

    def size(self, d: Tensor) -> Tensor:
        return torch.linalg.vector_norm(flat(d), ord=1, dim=1)
