"""A toy two-modality set and model, small enough to train within a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crossguard import Inputs, Linf, Modality, Output, SingleLabel, ThreatModel
from crossguard.core.batch import Feature
from crossguard.data.base import Splits, TensorDataset

TASK = SingleLabel(2)
THREAT = ThreatModel(a=Linf(0.5), b=Linf(0.5))


def dataset(
    name: str, samples: int, seed: int, *, weak: bool = False, strength: Mapping[str, float] | None = None
) -> TensorDataset:
    """Two classes told apart by the sign of the first column of `a` and of `b`; the other columns are noise."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 2
    inputs: Inputs = {}
    for modality, size in (strength or {"a": 1.0, "b": 1.0}).items():
        x = torch.randn(samples, 3, generator=generator) * (0.3 if not weak else 1.0)
        x[:, 0] += size * (2 * targets - 1)
        inputs[modality] = x
    return TensorDataset(
        name,
        {n: Modality(n, "ND", "unit") for n in inputs},
        ("left", "right"),
        inputs,
        targets,
        ids=tuple(f"{name}{i}" for i in range(samples)),
    )


def splits(samples: int = 60, seed: int = 0, **options: object) -> Splits:
    """Training, validation and test set of the same kind."""
    parts = (("train", samples), ("validation", 23), ("test", 20))
    return Splits(*(dataset(n, k, seed + i, **options) for i, (n, k) in enumerate(parts)))  # type: ignore[arg-type]


class TwoBranch(nn.Module):
    """Two branches with batch normalisation and dropout, a fused head and auxiliary heads."""

    def __init__(self, modalities: Sequence[str] = ("a", "b"), classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.branches = nn.ModuleDict(
                {n: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)) for n in modalities}
            )
            self.heads = nn.ModuleDict({n: nn.Linear(8, classes) for n in modalities})
            self.head = nn.Linear(8 * len(self.modalities), classes)

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        return Feature(self.branches[name](x))

    def fuse(self, features: dict[str, Feature], need: Sequence[str] = ()) -> Output:
        values = {n: features[n].value for n in self.modalities}
        auxiliary = {n: self.heads[n](v) for n, v in values.items()} if "auxiliary" in need else None
        fused = torch.cat(list(values.values()), dim=1)
        return Output(self.head(fused), auxiliary, {**values, "fused": fused} if "latents" in need else None)

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[str] = ()) -> Output:
        return self.fuse({n: self.encode(n, inputs[n]) for n in self.modalities}, need)


def same_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
