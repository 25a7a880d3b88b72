"""Joints that never move, such as the root."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.errors import ThreatError
from crossguard.threat.constraints.constraint import Still


@dataclass(frozen=True)
class FixedJoints(Still):
    """These joints of NTVC or NMTVC skeletons never move; the first joint, the root of most layouts, by default."""

    joints: tuple[int, ...] = (0,)
    kind: ClassVar[str] = "fixed_joints"

    def __post_init__(self) -> None:
        if not self.joints or min(self.joints) < 0:
            raise ThreatError(f"FixedJoints: found {self.joints}, expected indices of joints such as (0,)")

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        if x.dim() < 3 or max(self.joints) >= x.shape[-2]:
            raise ThreatError(
                f"modality {name!r}: fixed_joints names joint {max(self.joints)}, expected joints on the last axis but "
                f"one of shape {tuple(x.shape)}"
            )

    def free(self, x: Tensor) -> Tensor:
        return _free(self.joints, x.shape[-2], x.device)


@cache
def _free(joints: tuple[int, ...], count: int, device: torch.device) -> Tensor:
    """(V, 1) whether a joint moves."""
    return torch.tensor([[joint not in joints] for joint in range(count)], device=device)
