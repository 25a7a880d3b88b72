"""Early and mid fusion of sound and pictures (after Li et al., ICASSP 2022): branches meet as sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.encoder import check_sizes
from crossguard.models.fusion.concat import head
from crossguard.models.fusion.fusion import Fusion
from crossguard.models.passes import GatedPooling, Passes


class Early(Fusion):
    """Maps (N, C_m, T_m) side by side, step by step, then `passes` of one Transformer layer, gated pooling and a head.

    A linear layer brings the channels of all modalities together to `width` (as the sum of one for each). Of each clip,
    the shorter map repeats its steps evenly up to the longer one's length, so that any lengths meet (both our choice).
    Branches that have not looked at themselves (`passes: 0`) meet early; see `Mid`. The head is linear, or has a
    `hidden` ReLU layer.
    """

    maps = True

    def __init__(
        self, *, width: int = 128, passes: int = 2, heads: int = 8, hidden: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        check_sizes(type(self).__name__, width=width, heads=heads)
        if hidden < 0:
            raise ModelError(f"{type(self).__name__}: hidden is {hidden}, expected >= 0 (0: a linear head)")
        self.width, self.hidden = width, hidden
        self.attend = Passes(width, passes, heads, dropout)
        self.pooling = GatedPooling(width)

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """Projections and the head."""
        self.project = nn.ModuleDict({name: nn.Linear(dim, self.width) for name, dim in last.items()})
        self.head = head(self.width, classes, self.hidden, 0.0)

    def join(self, maps: Mapping[str, Tensor], real: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """The pooled features (N, width) and their logits."""
        lengths = {name: _length(x, real[name]) for name, x in maps.items()}
        longest = torch.stack(list(lengths.values())).amax(dim=0)[:, None]
        step = torch.arange(max(x.shape[2] for x in maps.values()), device=longest.device)
        known, total = step < longest, torch.zeros(())
        for name, x in maps.items():
            # Of a clip's own length alone, so that padding it changes nothing.
            index = (step * lengths[name][:, None] // longest.clamp_min(1)).clamp_max(x.shape[2] - 1)
            y = self.project[name](x.transpose(1, 2))
            mask = real[name]
            y = y if mask is None else y.where(mask[..., None], y.new_zeros(()))
            total = total + y.gather(1, index[..., None].expand(-1, -1, self.width))
        there = known if any(mask is not None for mask in real.values()) else None
        fused = self.pooling(self.attend(total.transpose(1, 2), there), there)
        return fused, self.head(fused)


def _length(x: Tensor, real: Tensor | None) -> Tensor:
    """(N,): how many steps of a map (N, C, T) there are up to the last that is real."""
    if real is None:
        return torch.full((x.shape[0],), x.shape[2], device=x.device)
    return ((torch.arange(x.shape[2], device=x.device) + 1) * real).amax(dim=1)


class Mid(Early):
    """As `Early`, but of branches that have been through a layer of their own (`passes: 1`), so with one pass here."""

    def __init__(
        self, *, width: int = 128, passes: int = 1, heads: int = 8, hidden: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__(width=width, passes=passes, heads=heads, hidden=hidden, dropout=dropout)
