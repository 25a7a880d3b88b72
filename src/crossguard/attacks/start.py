"""Where a search starts: (ball, keys) -> a point of the ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from crossguard.threat.budget import Ball

Start: TypeAlias = Callable[[Ball, Tensor], Tensor]


def clean(ball: Ball, keys: Tensor) -> Tensor:
    """The sample itself."""
    return ball.x


def uniform(ball: Ball, keys: Tensor) -> Tensor:
    """A random point of the ball, a function of the row's key alone."""
    return ball.uniform(keys)
