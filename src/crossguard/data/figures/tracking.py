"""The skeletons as a depth camera's tracker would report them: jitter, limbs and people lost, sides confused."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.data.figures.chance import Chance
from crossguard.data.figures.regimes import Tracking
from crossguard.data.figures.scene import on_grid

LIMBS = ((5, 6, 7, 21, 22), (9, 10, 11, 23, 24), (13, 14, 15), (17, 18, 19))
_LEFT = (4, 5, 6, 7, 12, 13, 14, 15, 21, 22)
_RIGHT = (8, 9, 10, 11, 16, 17, 18, 19, 23, 24)


def _window(chance: Chance, name: str, odds: float, frames: int, longest: float, first: int = 0) -> Tensor:
    """(n, T) bool: true within one window of random place and length, in some of the clips."""
    place = torch.arange(frames)
    length = 1 + (chance.unit(f"{name} length") * longest * frames).floor()
    start = first + (chance.unit(f"{name} start") * frames).floor()
    return (place >= start) & (place < start + length) & chance.happens(name, odds)


def _held(x: Tensor, gone: Tensor) -> Tensor:
    """`x` (n, T, …) with frames in `gone` (n, T) replaced by the last one before them (the first, where none is)."""
    frames = x.shape[1]
    last = torch.where(gone, 0, torch.arange(frames)).cummax(dim=1).values
    return x.gather(1, last.view(*last.shape, 1, 1).expand(x.shape))


def track(chance: Chance, joints: Tensor, fault: Tracking) -> tuple[Tensor, Tensor]:
    """Reported joints (n, T, 25, 3) in metres and where there was a track, (n, T), of true `joints`."""
    n, frames = joints.shape[:2]
    shape, count = joints.shape, joints[0].numel()
    deep = torch.tensor((1.0, 1.0, 1.5), dtype=torch.float64)
    quality = chance.between("quality", 0.5, 1.5).view(n, 1, 1, 1)
    shake = chance.bell("jitter", count).view(shape)
    bias = chance.bell("bias", 75).view(n, 1, 25, 3)
    seen = joints + quality * deep * (fault.jitter * shake + fault.bias * bias)

    swapped = seen.clone()
    swapped[:, :, _LEFT + _RIGHT] = seen[:, :, _RIGHT + _LEFT]
    seen = torch.where(_window(chance, "swap", fault.swap, frames, 0.5).view(n, frames, 1, 1), swapped, seen)
    stray = chance.bell("stray", count).view(shape)
    for number, limb in enumerate(LIMBS):
        gone = _window(chance, f"limb {number}", fault.limb, frames, 0.9)
        part = seen[:, :, limb]
        lost = _held(part, gone) + 0.05 * stray[:, :, limb]
        seen[:, :, limb] = torch.where(gone.view(n, frames, 1, 1), lost, part)
    lost = _window(chance, "lost", fault.lost, frames, 0.35, first=1)
    return on_grid(_held(seen, lost)).to(torch.float32), ~lost
