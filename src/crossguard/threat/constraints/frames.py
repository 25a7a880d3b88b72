"""At most k frames of a sample change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.errors import ThreatError
from crossguard.threat.ball import largest
from crossguard.threat.constraints.constraint import Constraint, check_axis


@dataclass(frozen=True)
class Frames(Constraint):
    """At most `k` indices of the time `axis` change; the projection keeps those with the largest change."""

    k: int
    axis: int
    kind: ClassVar[str] = "frames"

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ThreatError(f"Frames: k is {self.k}, expected a whole number >= 0")

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        check_axis(self.kind, self.axis, name, x)

    def choose(self, y: Tensor, x: Tensor, gain: Tensor) -> Tensor:
        kept = largest(by_frame(gain, self.axis), gain.new_full((gain.shape[0],), self.k))
        return torch.where(along(kept, self.axis, x), y, x)

    def project(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.choose(y, x, (y - x).square())

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        return (by_frame((y != x).float(), self.axis) > 0).sum(dim=1) <= self.k


def by_frame(values: Tensor, axis: int) -> Tensor:
    """(N, T) sums of `values` over all axes but the first and `axis`."""
    return values.movedim(axis, 1).flatten(2).sum(dim=2) if values.dim() > 2 else values


def along(frames: Tensor, axis: int, x: Tensor) -> Tensor:
    """(N, T) values, broadcastable to `x` along `axis`."""
    shape = [1] * x.dim()
    shape[0], shape[axis] = frames.shape
    return frames.view(shape)
