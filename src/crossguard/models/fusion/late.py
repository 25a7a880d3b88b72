"""Late fusion: alpha(h_a) + beta(h_v) (Li et al., ICASSP 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.concat import head
from crossguard.models.fusion.fusion import Fusion, concatenated


class Late(Fusion):
    """The sum, over the modalities that are there, of each one's own logits: a linear layer of its pooled features, or
    a perceptron with one `hidden` ReLU layer where it is > 0."""

    def __init__(self, *, hidden: int = 0) -> None:
        super().__init__()
        if hidden < 0:
            raise ModelError(f"Late: hidden is {hidden}, expected >= 0 (0: linear)")
        self.hidden = hidden

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """One head a modality."""
        self.heads = nn.ModuleDict({name: head(dim, classes, self.hidden, 0.0) for name, dim in last.items()})

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The concatenation and the sum of the logits."""
        logits = torch.stack([self.heads[name](x) for name, x in features.items()], dim=1)
        return concatenated(features), (logits if real is None else logits * real[..., None]).sum(dim=1)
