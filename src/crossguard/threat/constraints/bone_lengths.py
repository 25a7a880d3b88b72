"""Bones keep their lengths: a perturbed skeleton stays the body that it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from crossguard.core.errors import ThreatError
from crossguard.core.skeleton import LAYOUTS
from crossguard.threat.constraints.constraint import HALVINGS, Constraint

# A bone that is out of range is brought this share of the tolerance inside, so that alternating projections end.
_INSIDE = 0.98


@dataclass(frozen=True)
class BoneLengths(Constraint):
    """Every bone's length stays within `tolerance` (a share) of the clean one, in every frame of NTVC or NMTVC,
    and in single poses, NVC.

    `edges` are pairs of joints (`Modality.bones`) or the name of a layout in `core.skeleton.LAYOUTS`. The projection
    moves both ends of a bone along it by half of what is missing, one group of bones without a common joint after
    another (position-based dynamics, Mueller et al. 2007); the set is not convex, so it only approaches it.
    Raises ThreatError for a negative tolerance, an unknown layout, and joints that are not there.
    """

    edges: tuple[tuple[int, int], ...] | str
    tolerance: float = 0.05
    kind: ClassVar[str] = "bone_lengths"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ThreatError(f"BoneLengths: tolerance is {self.tolerance}, expected a share such as 0.05")
        if isinstance(self.edges, str) and self.edges not in LAYOUTS:
            raise ThreatError(f"BoneLengths: unknown layout {self.edges!r}; known: {sorted(LAYOUTS)}")
        if not self.bones or any(a == b or min(a, b) < 0 for a, b in self.bones):
            raise ThreatError(f"BoneLengths: found edges {self.bones}, expected pairs of different joints")

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The pairs of joints."""
        return LAYOUTS[self.edges] if isinstance(self.edges, str) else self.edges

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        last = max(max(bone) for bone in self.bones)
        if x.dim() < 3 or last >= x.shape[-2]:
            raise ThreatError(
                f"modality {name!r}: bone_lengths names joint {last}, expected joints on the last axis but one of "
                f"shape {tuple(x.shape)}"
            )

    def project(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        for first, second in _groups(self.bones, y.device):
            bone = y.index_select(-2, second) - y.index_select(-2, first)
            length = torch.linalg.vector_norm(bone, dim=-1, keepdim=True)
            clean = _length(x, first, second)[..., None]
            reach = self.tolerance * clean
            wanted = torch.minimum(torch.maximum(length, clean - _INSIDE * reach), clean + _INSIDE * reach)
            wanted = torch.where((length - clean).abs() <= reach, length, wanted)
            push = bone * ((wanted - length) / length.clamp_min(torch.finfo(y.dtype).tiny) / 2)
            y = y.index_add(-2, first, push, alpha=-1).index_add(-2, second, push)
        return y

    def shrink(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        # Each skeleton on its own: a bone that cannot be mended costs its frame and person alone.
        low, high = torch.zeros_like(y[..., 0, 0]), torch.ones_like(y[..., 0, 0])
        share, best = high, x
        for _ in range(HALVINGS):
            point = torch.where(share[..., None, None] == 1, y, x + (y - x) * share[..., None, None])
            held = self._held(point, x)
            best = torch.where(held[..., None, None], point, best)
            low, high = torch.where(held, share, low), torch.where(held, high, share)
            share = (low + high) / 2
        return best

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        held = self._held(y, x)
        # Said in full: -1 has no meaning where there are no samples.
        return held.reshape(len(x), math.prod(held.shape[1:])).all(dim=1)

    def _held(self, y: Tensor, x: Tensor) -> Tensor:
        """(N, …) whether all bones of a skeleton have their length."""
        first, second = _ends(self.bones, y.device)
        clean = _length(x, first, second)
        # Bones are differences of coordinates, so their rounding is that of the coordinates.
        rounding = 8 * torch.finfo(y.dtype).eps * x.abs().amax(dim=(-2, -1))
        return ((_length(y, first, second) - clean).abs() - self.tolerance * clean).amax(dim=-1) <= rounding


def _length(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.index_select(-2, second) - x.index_select(-2, first), dim=-1)


@cache
def _ends(edges: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The bones' first and second joints."""
    first, second = torch.tensor(edges, device=device).unbind(dim=1)
    return first, second


@cache
def _groups(edges: tuple[tuple[int, int], ...], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The bones in groups without a common joint: those of a group move at once and do not disturb one another."""
    groups: list[list[tuple[int, int]]] = []
    for a, b in edges:
        free = (group for group in groups if not {a, b} & {joint for bone in group for joint in bone})
        group = next(free, None)
        if group is None:
            groups.append(group := [])
        group.append((a, b))
    return [_ends(tuple(group), device) for group in groups]
