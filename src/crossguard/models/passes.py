"""What follows the convolutions in Li et al., ICASSP 2022: one Transformer layer run several times, gated pooling."""

from __future__ import annotations

from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.attention import keys, show
from crossguard.models.encoder import Encoder
from crossguard.models.transformer import Block, run_block


class Passes(nn.Module):
    """One Transformer layer of `heads` heads through which a map goes `passes` times (published: 2 and 8)."""

    def __init__(self, width: int, passes: int, heads: int, dropout: float) -> None:
        super().__init__()
        if passes < 1 or not 0 <= dropout < 1:
            raise ModelError(f"found passes {passes}, dropout {dropout}; expected passes >= 1, dropout in [0, 1)")
        self.passes = passes
        self.layer = Block(width, heads, "attention", 1, dropout)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(N, C, T) to the same; `real` (N, T) says which steps may be looked at."""
        x = x.transpose(1, 2)
        for _ in range(self.passes):
            x = run_block(self.layer, x, real)
        return x.transpose(1, 2)


class GatedPooling(nn.Module):
    """(N, C, T) to (N, C): sum over real t of softmax_t(W_a h_t) sigmoid(W_p h_t), channel by channel, of the normed h.

    Published for one channel a class, whose sum is then the probability; here the channels are a bottleneck that a head
    reads (our choice), so that what lies between it and the logits can be measured. 0 where no step is real.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Pooled features; the mean of the weights over channels is shown as a map of one more layer."""
        x = self.norm(x.transpose(1, 2))
        seen = keys(real)
        score = self.score(x) if seen is None else self.score(x).masked_fill(~seen[:, 0, 0, :, None], -float("inf"))
        a = score.softmax(dim=1)
        there = None if real is None else real.any(dim=1, keepdim=True)
        show("maps", a.mean(dim=2)[:, None, None], there)
        pooled = (a * self.value(x).sigmoid()).sum(dim=1)
        show("gathered", pooled[:, None, None], there)
        return pooled if there is None else pooled.where(there, pooled.new_zeros(()))


def add_ending(encoder: Encoder, passes: int, heads: int, gather: bool, dropout: float) -> None:
    """Give an encoder whose maps are (N, C, T) by now the stages attend (where `passes` > 0) and gather."""
    width = encoder.dims[encoder.stages[-1]]
    if passes < 0:
        raise ModelError(f"{type(encoder).__name__}: passes is {passes}, expected >= 0 (0: none)")
    ending: dict[str, nn.Module] = {"attend": Passes(width, passes, heads, dropout)} if passes else {}
    ending |= {"gather": GatedPooling(width)} if gather else {}
    for name, module in ending.items():
        encoder.add_module(name, module)
        encoder.dims[name] = width
    encoder.stages = (*encoder.stages, *ending)
