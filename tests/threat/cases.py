"""Samples of any rank with masks, for the laws that every budget and constraint obeys."""

from __future__ import annotations

import torch
from torch import Tensor

import crossguard as cg
from crossguard.threat.budget import Budget

SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 3), (4, 3, 2), (3, 2, 4, 5)]

BUDGETS: list[Budget] = [
    cg.Linf(0.3),
    cg.Linf(0.3, bounds=(0, 1)),
    cg.Linf(5.0, bounds=(0, 1)),
    cg.L2(0.7),
    cg.L2(0.7, bounds=(0, 1)),
    cg.L2(50.0, bounds=(0, 1)),
    cg.L1(1.5),
    cg.L1(1.5, bounds=(0, 1)),
    cg.L1(500.0, bounds=(0, 1)),
    cg.L0(2, bounds=(0, 1)),
    cg.L0(4, amplitude=0.2),
    cg.L0(1000, bounds=(0, 1), amplitude=0.4),
    cg.SNR(10),
    cg.SNR(3, bounds=(0, 1), floor=0.5),
    cg.SNR(-80, bounds=(0, 1)),
]


def case(shape: tuple[int, ...], seed: int, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Five samples on [0, 1], points near and far from them, and a mask over the first axis."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, *shape, generator=generator)
    y = x + torch.randn(5, *shape, generator=generator) * (0.1 + seed % 3)
    mask = torch.rand(5, *shape[:1], generator=generator) > 0.4 if masked else None
    return x, y, mask


def skeletons(seed: int, frames: int = 6, samples: int = 4) -> Tensor:
    """(N, M, T, V, C): five joints in a chain and a branch, swaying smoothly; bones of about 0.3 m."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.tensor([[0.0, 0, 3], [0, 0.3, 3], [0, 0.6, 3], [0.3, 0.3, 3], [0, -0.3, 3]])
    phase = torch.rand(samples, 2, 1, 1, 1, generator=generator) * 6
    time = torch.arange(frames).view(1, 1, -1, 1, 1) * 0.4
    return rest + 0.05 * torch.sin(phase + time + torch.arange(5).view(-1, 1))


CHAIN = ((0, 1), (1, 2), (1, 3), (0, 4))
