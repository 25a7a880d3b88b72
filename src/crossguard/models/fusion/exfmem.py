"""External feature memory (Tian and Xu, CVPR 2021, arXiv 2104.02000)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.concat import Concat


class ExFMem(Concat):
    """Concat of features that are half rebuilt from clean ones: z' = a D h + (1 - a) z, with `blend` a and
    h = argmin |D h - z|^2 / 2 + `penalty` |h|_1 by ISTA over a dictionary D_m of `size` training features.

    From the paper and its authors' code: the equations, 1024 columns as they come, a 0.5, penalty 0.1, a linear head,
    gradients through ISTA. They stop it when a whole batch has settled (2000 iterations at most); here every sample
    gets the same number of `iterations` of the largest step that converges, so that its answer is its own (our choice).
    They take the dictionaries from a network trained before; here `fill` takes them anew at each epoch's start until
    the share `frozen_from` of training, then they stay (our choice). Before that the memory is empty and z' = z.
    `through=False` takes h as a constant in training, which spares the way back through ISTA, and hides a part of the
    gradient: attack `attack_view()` then.
    """

    def __init__(
        self,
        *,
        size: int = 1024,
        penalty: float = 0.1,
        blend: float = 0.5,
        iterations: int = 50,
        through: bool = True,
        frozen_from: float = 0.5,
        hidden: int = 0,
        dropout: float = 0.0,
        width: int = 0,
    ) -> None:
        super().__init__(hidden=hidden, dropout=dropout, width=width)
        if size < 1 or iterations < 1 or not 0 <= penalty < float("inf"):
            raise ModelError(
                f"ExFMem: found size {size}, iterations {iterations}, penalty {penalty}; expected whole numbers >= 1 "
                f"and a finite penalty >= 0"
            )
        if not 0 <= blend <= 1 or not 0 <= frozen_from <= 1:
            raise ModelError(f"ExFMem: found blend {blend}, frozen_from {frozen_from}; expected both in [0, 1]")
        self.size, self.penalty, self.blend, self.iterations = size, penalty, blend, iterations
        self.through, self.frozen_from = through, frozen_from

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """The head and an empty memory a modality."""
        super().make(exchanged, last, classes)
        self.memories = nn.ModuleDict({name: Memory(dim, self.size) for name, dim in self.widths(last).items()})

    def refine(self, name: str, x: Tensor) -> Tensor:
        """z', (N, C_m)."""
        z, memory = super().refine(name, x), cast("Memory", self.memories[name])
        with torch.set_grad_enabled(self.through and torch.is_grad_enabled()):
            rebuilt = memory(z, self.penalty, self.iterations)
        return z + self.blend * memory.filled * (rebuilt - z)

    def empty(self) -> None:
        """Forget the dictionaries, so that features are seen as they are: z' = z."""
        for memory in self.memories.values():
            cast("Memory", memory).filled.zero_()

    def fill(self, features: Mapping[str, Tensor]) -> None:
        """Take the dictionaries from features z (K, C_m) by modality; where K < `size`, the rest is zero.

        Raises ModelError for more than `size`.
        """
        for name, z in features.items():
            cast("Memory", self.memories[name]).fill(z.detach())

    def attack_view(self) -> ExFMem:
        """The same memory, attacked through the unrolled iterations."""
        if self.through:
            return self
        view = copy.copy(self)
        view.through = True
        return view


class Memory(nn.Module):
    """The frozen dictionary of one modality: its columns (C, size), the `rate` of ISTA's step, and whether it is
    `filled` (0 or 1)."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.dictionary: Tensor
        self.rate: Tensor
        self.filled: Tensor
        self.register_buffer("dictionary", torch.zeros(dim, size))
        self.register_buffer("rate", torch.zeros(()))
        self.register_buffer("filled", torch.zeros(()))

    def forward(self, z: Tensor, penalty: float, iterations: int) -> Tensor:
        """D h of (N, C) features."""
        return ista(self.dictionary, z, self.rate, penalty, iterations) @ self.dictionary.mT

    def fill(self, z: Tensor) -> None:
        """See `ExFMem.fill`."""
        size = self.dictionary.shape[1]
        if z.shape[0] > size:
            raise ModelError(f"ExFMem: found {z.shape[0]} features for a memory of {size}; give at most {size}")
        self.dictionary.zero_()
        self.dictionary[:, : z.shape[0]] = z.mT
        self.rate.copy_(torch.linalg.matrix_norm(self.dictionary, 2).square().clamp_min(1e-12).reciprocal())
        self.filled.fill_(1.0)


def ista(dictionary: Tensor, z: Tensor, rate: Tensor, penalty: float, iterations: int) -> Tensor:
    """(N, K) codes h of (N, C) features: h <- shrink(h - rate D^T (D h - z), rate penalty), from 0.

    It converges to a minimum of |D h - z|^2 / 2 + penalty |h|_1 for rates up to 1 / |D|_2^2 (Daubechies et al., 2004).
    """
    threshold = rate * penalty
    h = shrink(rate * (z @ dictionary), threshold)
    for _ in range(iterations - 1):
        h = shrink(h - rate * ((h @ dictionary.mT - z) @ dictionary), threshold)
    return h


def shrink(x: Tensor, threshold: Tensor) -> Tensor:
    """sign(x) max(|x| - threshold, 0)."""
    return x - x.clamp(-threshold, threshold)
