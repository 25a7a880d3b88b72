"""Multimodal transfer module (Joze et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.fusion import At, Fusion, Gates, concatenated
from crossguard.models.fusion.mean import Mean


class MMTM(Fusion):
    """Squeeze and excitation across modalities: z = ReLU(W [GAP F_1; …; GAP F_M]), F_m <- 2 sigmoid(W_m z) F_m.

    z has sum(C_m) / `ratio` units, rounded down, at least one: `ratio` 4 is published, of what it is a share is our
    reading (the squeezed vector's length, as in squeeze and excitation). By default at the last three stages of each
    encoder, as published; the logits are the mean of the branches' own. Source: Joze et al., CVPR 2020, equations 1 to
    5, for two modalities; here any number, an absent one squeezed to zero.
    """

    depths = 3

    def __init__(self, *, ratio: int = 4, at: At | None = None) -> None:
        super().__init__(at)
        if ratio < 1:
            raise ModelError(f"MMTM: ratio is {ratio}, expected a whole number >= 1")
        self.ratio = ratio

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """A squeeze and one excitation a modality at each depth, and the heads."""
        self.exchanges = nn.ModuleList([Excitation(dims, self.ratio) for dims in exchanged])
        self.late = Mean()
        self.late.build((), last, classes)

    def gates(self, depth: int, tokens: dict[str, Tensor], real: Tensor | None) -> Gates:
        """2 sigmoid(W_m z), (N, C_m) by modality."""
        return Gates(self.exchanges[depth](tokens))

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean of the branches' logits."""
        return self.late(features, real)


class Excitation(nn.Module):
    """One transfer module."""

    def __init__(self, dims: Mapping[str, int], ratio: int) -> None:
        super().__init__()
        total = sum(dims.values())
        self.squeeze = nn.Linear(total, max(1, total // ratio))
        self.excite = nn.ModuleDict({name: nn.Linear(self.squeeze.out_features, dim) for name, dim in dims.items()})

    def forward(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gates in (0, 2) by modality."""
        z = self.squeeze(concatenated(tokens)).relu()
        return {name: 2 * layer(z).sigmoid() for name, layer in self.excite.items()}
