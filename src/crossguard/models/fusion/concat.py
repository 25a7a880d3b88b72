"""Concatenation of the last features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.fusion import Fusion, concatenated


class Concat(Fusion):
    """Pooled features side by side, then a linear head, or one with a `hidden` ReLU layer where it is > 0.

    An absent modality is a zero feature.
    """

    def __init__(self, *, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden < 0 or not 0 <= dropout <= 1:
            raise ModelError(
                f"Concat: found hidden {hidden}, dropout {dropout}; expected hidden >= 0 (0: a linear head), dropout "
                f"in [0, 1]"
            )
        self.hidden = hidden
        self.dropout = dropout

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """One head over all features."""
        self.head = head(sum(last.values()), classes, self.hidden, self.dropout)

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The concatenation and its logits."""
        fused = concatenated(features)
        return fused, self.head(fused)


def head(features: int, classes: int, hidden: int, dropout: float) -> nn.Module:
    """A linear classifier, or a perceptron with one hidden layer."""
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    if hidden:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden or features, classes))
