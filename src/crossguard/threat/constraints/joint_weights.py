"""How far each joint may move in shares of the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.errors import ThreatError
from crossguard.threat.constraints.constraint import Constraint


@dataclass(frozen=True)
class JointWeights(Constraint):
    """The norm is taken of change / weight: under L-infinity a joint of weight w may move w x eps, one of 0 not at all.

    One weight an index of `axis`, the joints of NTVC and NMTVC by default (-1: one a feature). Exact by a change of
    variables; "nearest" and "steepest" are then meant in the weighted norm.
    """

    weights: tuple[float, ...]
    axis: int = -2
    kind: ClassVar[str] = "joint_weights"

    def __post_init__(self) -> None:
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or not any(self.weights):
            raise ThreatError(f"JointWeights: found {self.weights}, expected finite numbers >= 0, not all of them 0")
        if self.axis >= 0:
            raise ThreatError(f"JointWeights: axis is {self.axis}, expected one counted from the end, such as -2")

    @property
    def lets_grow(self) -> bool:
        return all(self.weights)

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        if -self.axis >= x.dim() or x.shape[self.axis] != len(self.weights):
            raise ThreatError(
                f"modality {name!r}: joint_weights has {len(self.weights)} weights for axis {self.axis} of shape "
                f"{tuple(x.shape)}"
            )

    def weight(self, x: Tensor) -> Tensor:
        """The weights, broadcastable to `x`."""
        return _tensor(self.weights, x.dtype, x.device).view(-1, *(1,) * (-self.axis - 1))


@cache
def _tensor(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(weights, dtype=dtype, device=device)
