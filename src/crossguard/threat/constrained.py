"""A ball cut by constraints: which entries share the change, what holds between them, what can be stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from crossguard.threat.ball import Ball, spread
from crossguard.threat.constraints import Codes, Constraint, Frames
from crossguard.threat.constraints.constraint import HALVINGS

# Alternating projections a step, and before the last word on a point that is returned (our choice).
SWEEPS = 2
REPAIRS = 24
# Where the nearest codes leave the ball, only values this far on their way to the next one go there (our choice).
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class ConstrainedBall(Ball):
    """The points of `ball` that satisfy `constraints` (those that a mask or a weight cannot say).

    `project` alternates between the constraints and the ball: exact for frames, near for bones and acceleration.
    `repair` is exact always: the clean sample is allowed, and a point is drawn towards it until it is allowed too.
    """

    ball: Ball
    real: Tensor | None
    constraints: tuple[Constraint, ...]
    contains: Callable[[Tensor, Tensor, Tensor | None], Tensor] = field(repr=False)
    outside: Callable[[Tensor, Tensor], Tensor] = field(repr=False)

    @property
    def entrywise(self) -> bool:
        return False

    def project(self, y: Tensor) -> Tensor:
        for _ in range(1 if self._exact else SWEEPS):
            y = self._sweep(y)
        return y

    def steepest(self, gradient: Tensor) -> Tensor:
        """The ball's own steepest move, where frames are limited on those that gain most."""
        g = torch.nan_to_num(gradient, nan=0.0)
        # As far as mask and bounds let it go: elsewhere nothing is gained.
        kept = self._choose(g, torch.zeros_like(g), (self.ball.ascend(self.x, g, 1.0) - self.x) * g)
        return self.ball.steepest(kept)

    def ascend(self, y: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Move as the ball does and project. Where frames are limited, those are chosen before the move, which then has
        the whole budget for them: by what they gain to first order where they are led now, or where the budget alone
        would lead them (our choice: kept by their change, the frames of a random start would never leave; by one step,
        a new one would hardly ever come in)."""
        g = torch.nan_to_num(gradient, nan=0.0)
        if any(isinstance(c, Frames) for c in self.constraints):
            near, far = self.ball.ascend(y, g, step_size), self.ball.ascend(self.x, g, 1.0)
            gain = torch.maximum((near - self.x) * g, (far - self.x) * g)
            y, g = self._choose(y, self.x, gain), self._choose(g, torch.zeros_like(g), gain)
        return self.project(self.ball.ascend(y, g, step_size))

    def uniform(self, key: Tensor) -> Tensor:
        return self.project(self.ball.uniform(key))

    def resized(self, radius: Tensor) -> Self:
        return replace(self, radius=radius, ball=self.ball.resized(radius))

    def shown(self, y: Tensor) -> Tensor:
        return self._coded(y) if self._exact else self.repair(y)

    def repair(self, y: Tensor) -> Tensor:
        fine, given = self.contains(y, self.x, self.real), y
        # What is clean stays clean, so that frames and entries that were chosen are not chosen anew.
        still = (y == self.x) | ~torch.isfinite(y)
        y = torch.where(still, self.x, y)
        for _ in range(1 if self._exact else REPAIRS):
            y = torch.where(still, self.x, self._sweep(y))
        for constraint in self.constraints:
            y = constraint.shrink(y, self.x, self.real)
        share = torch.ones_like(self.radius)
        low, high, best = torch.zeros_like(share), share, self.x
        # Where projection and codes are exact, the whole of it is allowed; then the halvings are a net never needed.
        for _ in range(2 if self._exact else HALVINGS):
            part = torch.where(spread(share == 1, y), y, self.x + (y - self.x) * spread(share, y))
            point = self._coded(part)
            allowed = self.contains(point, self.x, self.real)
            best = torch.where(spread(allowed, point), point, best)
            low, high = torch.where(allowed, share, low), torch.where(allowed, high, share)
            share = (low + high) / 2
        return torch.where(spread(fine, y), given, best)

    @property
    def _exact(self) -> bool:
        return all(c.exact for c in self.constraints)

    def _sweep(self, y: Tensor) -> Tensor:
        for constraint in self.constraints:
            y = constraint.project(y, self.x, self.real)
        return self.ball.project(y)

    def _choose(self, y: Tensor, x: Tensor, gain: Tensor) -> Tensor:
        for constraint in self.constraints:
            y = constraint.choose(y, x, gain)
        return y

    def _coded(self, y: Tensor) -> Tensor:
        """`y` at the nearest codes, towards the clean sample where those are not allowed."""
        codes = next((c for c in self.constraints if isinstance(c, Codes)), None)
        if codes is None:
            return y
        towards = codes.round(y, self.x, 1.0)
        if self.ball.entrywise:
            return self._allowed(codes.round(y, self.x), towards)
        point = towards
        for share in SHARES:
            nearer = self._allowed(codes.round(y, self.x, share), towards)
            point = torch.where(spread(self.contains(nearer, self.x, self.real), y), nearer, point)
        return point

    def _allowed(self, point: Tensor, towards: Tensor) -> Tensor:
        return torch.where(self.outside(point, self.x), towards, point)
