"""Tiny two-modality models whose worst case is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossguard import Inputs


class Linear(nn.Module):
    """logits = sum over modalities of x W + b; under L-inf the margin falls by eps |w_y - w_j|_1 and no further."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.maps = nn.ParameterDict(
            {
                n: nn.Parameter(torch.randn(torch.Size(s).numel(), classes, generator=generator))
                for n, s in shapes.items()
            }
        )
        self.forwards = 0

    def forward(self, inputs: Inputs) -> Tensor:
        self.forwards += len(next(iter(inputs.values())))
        return sum((inputs[n].flatten(1) @ w for n, w in self.maps.items()), start=torch.zeros(()))

    def gap(self, name: str) -> Tensor:
        """w_1 - w_0 of one modality, for two classes."""
        return self.maps[name][:, 1] - self.maps[name][:, 0]


class Mixed(nn.Module):
    """A small MLP on two modalities, with what a borrowed model must get back: frozen norm, dropout, hooks."""

    def __init__(self, a: int = 6, b: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(a, 16), nn.Linear(b, 16)
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(32, classes)

    def forward(self, inputs: Inputs) -> Tensor:
        joined = torch.cat([self.a(inputs["a"]), self.b(inputs["b"])], dim=1)
        return self.head(self.drop(torch.relu(self.norm(joined))))
