"""Tiny models and sets whose worst case is known in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import crossguard as cg


class Linear(nn.Module):
    """Two classes, logits (s, 0) with s = sum over modalities of w_m . x_m + b: the margin is +-s, and the worst
    case under Linf is m - sum_m eps_m |w_m|_1."""

    def __init__(self, weights: dict[str, Tensor], bias: float = 0.0) -> None:
        super().__init__()
        self.w = nn.ParameterDict({m: nn.Parameter(w) for m, w in weights.items()})
        self.bias = nn.Parameter(torch.tensor(bias))

    def score(self, inputs: cg.Inputs) -> Tensor:
        return sum((inputs[m] @ w for m, w in self.w.items()), start=self.bias * 1.0)

    def forward(self, inputs: cg.Inputs) -> Tensor:
        s = self.score(inputs)
        return torch.stack([s, torch.zeros_like(s)], dim=1)


class Masked(Linear):
    """The same, with a mask: what is absent adds nothing."""

    def forward(self, inputs: cg.Inputs, mask: cg.Inputs | None = None) -> Tensor:  # pyright: ignore
        kept = {}
        for m, x in inputs.items():
            real = (mask or {}).get(m)
            kept[m] = x if real is None else x * real.reshape(-1, 1)
        return super().forward(kept)


class Loader:
    """Batches of a set, as the package's own loader yields them."""

    def __init__(self, batch: cg.Batch, size: int, classes: tuple[str, ...] = ("a", "b")) -> None:
        self.batch, self.size = batch, size
        modalities = {m: cg.Modality(m, "ND", "unit") for m in batch.inputs}
        self.dataset = SimpleNamespace(
            modalities=modalities, classes=classes, ids=batch.ids, groups=batch.groups, targets=batch.targets
        )

    def __len__(self) -> int:
        return (len(self.batch) + self.size - 1) // self.size

    def __iter__(self) -> Iterator[cg.Batch]:
        for start in range(0, len(self.batch), self.size):
            yield self.batch.take(range(start, min(start + self.size, len(self.batch))))


def samples(model: Linear, n: int = 48, wrong: float = 0.1, groups: int = 6, seed: int = 0) -> cg.Batch:
    """Random inputs, labelled by the model but for a share of wrong ones."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(n, w.numel(), generator=generator) for m, w in model.w.items()}
    with torch.no_grad():
        targets = (model.score(inputs) <= 0).long()
    flip = torch.rand(n, generator=generator) < wrong
    targets = torch.where(flip, 1 - targets, targets)
    ids = tuple(f"s{i}" for i in range(n))
    return cg.Batch(inputs, targets, ids=ids, groups=tuple(f"g{i % groups}" for i in range(n)))


def margins(model: Linear, batch: cg.Batch) -> Tensor:
    """(N,) exact clean margins."""
    with torch.no_grad():
        s = model.score(batch.inputs)
    return torch.where(batch.targets == 0, s, -s)


def linear(*sizes: int, seed: int = 1, kind: type[Linear] = Linear) -> Linear:
    """A linear model over modalities a, b, c…"""
    generator = torch.Generator().manual_seed(seed)
    return kind({m: torch.randn(d, generator=generator) for m, d in zip("abc", sizes, strict=False)})
