"""Concatenation of the last features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.fusion import Fusion, concatenated
from crossguard.models.mixture import MixtureOfExperts


class Concat(Fusion):
    """Pooled features side by side, then a linear head, or one with a `hidden` ReLU layer where it is > 0, or with a
    mixture of experts at its end where `experts` > 0.

    Where `width` > 0, a linear layer without bias first brings each modality to that many channels, so that features
    can be compared (`defences.similarity`); their latents are then those. An absent modality is a zero feature.
    """

    def __init__(self, *, hidden: int = 128, dropout: float = 0.0, width: int = 0, experts: int = 0) -> None:
        super().__init__()
        if min(hidden, width, experts) < 0 or not 0 <= dropout <= 1:
            raise ModelError(
                f"{type(self).__name__}: found hidden {hidden}, dropout {dropout}, width {width}, experts {experts}; "
                f"expected hidden >= 0 (0: a linear head), dropout in [0, 1], width >= 0 (0: the encoders' own), "
                f"experts >= 0 (0: no mixture)"
            )
        self.hidden = hidden
        self.dropout = dropout
        self.width = width
        self.experts = experts

    def widths(self, last: Mapping[str, int]) -> dict[str, int]:
        """`width` for each modality, or as many as there are."""
        return {name: self.width or dim for name, dim in last.items()}

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """One head over all features, and what brings them to one width."""
        if self.width:
            self.project = nn.ModuleDict({n: nn.Linear(dim, self.width, bias=False) for n, dim in last.items()})
        self.head = head(sum(self.widths(last).values()), classes, self.hidden, self.dropout, self.experts)

    def refine(self, name: str, x: Tensor) -> Tensor:
        """The features at one width, where one is asked for."""
        return self.project[name](x) if self.width else x

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The concatenation and its logits."""
        fused = concatenated(features)
        return fused, self.head(fused)


def head(features: int, classes: int, hidden: int, dropout: float, experts: int = 0) -> nn.Module:
    """A linear classifier or a mixture of experts, of the features or of one hidden layer."""
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    if hidden:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
    last = hidden or features
    return nn.Sequential(*layers, MixtureOfExperts(last, classes, experts) if experts else nn.Linear(last, classes))
