"""Late fusion: the mean of the branches' logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crossguard.models.fusion.fusion import Fusion, concatenated, mean_of_present


class Mean(Fusion):
    """The mean, over the modalities that are there, of each branch's own linear logits."""

    def __init__(self) -> None:
        super().__init__()

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """One head a modality."""
        self.heads = nn.ModuleDict({name: nn.Linear(dim, classes) for name, dim in last.items()})

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The concatenation and the mean of the logits."""
        logits = torch.stack([self.heads[name](x) for name, x in features.items()], dim=1)
        return concatenated(features), mean_of_present(logits, real)
