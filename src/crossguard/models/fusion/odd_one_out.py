"""Odd-one-out fusion (after Yang et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.concat import head
from crossguard.models.fusion.fusion import Fusion, Gates, concatenated, mean_of_present


class OddOneOut(Fusion):
    """Counts least on the modality that disagrees with the others: sum_m (1 - p_m) P_m F_m / sum_m (1 - p_m).

    A head with one layer of `width` over all modalities says with what probability p_m each is the odd one out, or
    none is: the M + 1 cases of the paper. The objective's term "odd_one_out" teaches it on batches with one attacked
    modality. P_m brings the last features to `width` channels. The weights (1 - p_m) M / sum(1 - p) average 1; with a
    single modality there is nothing to compare and its weight is 1. The paper gives the cases and one fusion a case;
    this weighted mean, in place of those M + 1 fusions, is our choice.
    """

    depths = 1

    def __init__(self, *, width: int = 128, hidden: int = 128) -> None:
        super().__init__()
        if width < 1 or hidden < 0:
            raise ModelError(f"OddOneOut: found width {width}, hidden {hidden}; expected width >= 1, hidden >= 0")
        self.width, self.hidden = width, hidden

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """The head that compares, the layers P_m, and the classifier."""
        self.compare = head(sum(last.values()), len(last) + 1, self.width, 0.0)
        self.project = nn.ModuleDict({name: nn.Linear(dim, self.width, bias=False) for name, dim in last.items()})
        self.head = head(self.width, classes, self.hidden, 0.0)

    def gates(self, depth: int, tokens: dict[str, Tensor], real: Tensor | None) -> Gates:
        """The weights (N,) by modality, and the logits of the cases."""
        cases = self.compare(concatenated(tokens))
        if real is not None:
            none = torch.ones_like(real[:, :1])
            cases = cases.masked_fill(~torch.cat([real, none], dim=1), torch.finfo(cases.dtype).min)
        odd = cases.softmax(dim=1)[:, :-1]
        keep = (1 - odd).clamp_min(torch.finfo(odd.dtype).eps)
        there = torch.ones_like(keep) if real is None else real.to(keep.dtype)
        keep = keep * there
        share = keep / keep.sum(dim=1, keepdim=True).clamp_min(torch.finfo(odd.dtype).tiny)
        w = share * there.sum(dim=1, keepdim=True)
        scale = {name: w[:, i : i + 1] for i, name in enumerate(tokens)}
        return Gates(scale, {name: w[:, i] for i, name in enumerate(tokens)}, cases)

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The weighted mean of the reweighted features, and its logits."""
        projected = [self.project[name](x) for name, x in features.items()]
        fused = mean_of_present(torch.stack(projected, dim=1), real)
        return fused, self.head(fused)
