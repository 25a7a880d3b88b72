"""Attention-based modality reweighter (after Liu et al., IJCB 2024, arXiv 2407.19981)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.fusion.concat import Concat
from crossguard.models.fusion.fusion import At, Fusion, Gates
from crossguard.models.fusion.mean import Mean


class AMR(Fusion):
    """Weighs whole modalities by attention over them, then fuses by `base`.

    Tokens u_m = P_m GAP(F_m) of `width` attend to one another (`self_attention`, `heads`); with P modalities present
    w = P ((1 - `floor`) softmax_m(v^T tanh(u'_m)) + `floor` / P), so that the weights of those present average 1 and
    none falls below `floor`; F_m <- w_m F_m, or F_m + w_m F_m (`residual`). `gate="channel"` spreads w_m unevenly over
    the channels of m, their mean unchanged. `v` starts at 0: all weights are 1, and a model that is given an AMR
    answers as before until it is trained. By default after the last stage of each encoder.

    `dims` (channels by modality) builds the layer at once, for `insert`; in a `FusionModel` leave it out. The paper
    gives the idea; these equations are our choice.
    """

    depths = 1

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        *,
        width: int = 64,
        heads: int = 4,
        self_attention: bool = True,
        gate: Literal["scalar", "channel"] = "scalar",
        residual: bool = False,
        floor: float = 0.0,
        base: Literal["concat", "mean"] = "concat",
        hidden: int = 128,
        at: At | None = None,
    ) -> None:
        super().__init__(at)
        if not 0 <= floor <= 1 or width < 1 or heads < 1 or width % heads:
            raise ModelError(
                f"AMR needs 0 <= floor <= 1 and a width that heads divides, found floor={floor}, width={width}, "
                f"heads={heads}"
            )
        self.width, self.heads, self.self_attention = width, heads, self_attention
        self.gate, self.residual, self.floor = gate, residual, floor
        self.base: Fusion = Concat(hidden=hidden) if base == "concat" else Mean()
        self.dims = None if dims is None else dict(dims)
        self.exchanges = nn.ModuleList([] if dims is None else [Reweighter(dims, self)])

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """One reweighter a depth, and the base fusion."""
        if len(self.exchanges):
            raise ModelError("AMR(dims) is for insert; a FusionModel takes AMR() and finds the dims itself")
        self.exchanges.extend(Reweighter(dims, self) for dims in exchanged)
        self.base.build((), last, classes)

    def gates(self, depth: int, tokens: dict[str, Tensor], real: Tensor | None) -> Gates:
        """The weights w, (N,) by modality, and what they multiply the channels by."""
        return self.exchanges[depth](tokens, real)

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The base fusion of the reweighted features."""
        return self.base(features, real)


class Reweighter(nn.Module):
    """The weights of an AMR at one depth."""

    def __init__(self, dims: Mapping[str, int], config: AMR) -> None:
        super().__init__()
        width = config.width
        self.floor, self.residual = config.floor, config.residual
        self.project = nn.ModuleDict({name: nn.Linear(dim, width) for name, dim in dims.items()})
        self.attend = TokenAttention(width, config.heads) if config.self_attention else None
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.spread: nn.ModuleDict | None = None
        if config.gate == "channel":
            self.spread = nn.ModuleDict({name: nn.Linear(width, dim) for name, dim in dims.items()})
            for layer in self.spread.parameters():
                nn.init.zeros_(layer)

    def forward(self, tokens: dict[str, Tensor], real: Tensor | None) -> Gates:
        """Weights and scales of tokens (N, C_m)."""
        u = torch.stack([layer(tokens[name]) for name, layer in self.project.items()], dim=1)
        if self.attend is not None:
            u = u + self.attend(u, real)
        u = u.tanh()
        score = self.score(u).squeeze(2)
        if real is None:
            w = (1 - self.floor) * len(tokens) * score.softmax(dim=1) + self.floor
        else:
            share = score.masked_fill(~real, torch.finfo(score.dtype).min).softmax(dim=1)
            there = real.to(share.dtype)
            w = ((1 - self.floor) * there.sum(dim=1, keepdim=True) * share + self.floor) * there
        weights = {name: w[:, i] for i, name in enumerate(self.project)}
        scale = {name: w[:, i : i + 1] for i, name in enumerate(self.project)}
        if self.spread is not None:
            for i, (name, layer) in enumerate(self.spread.items()):
                channels = layer(u[:, i]).sigmoid()
                scale[name] = scale[name] * channels / channels.mean(dim=1, keepdim=True)
        if self.residual:
            scale = {name: 1 + s for name, s in scale.items()}
        return Gates(scale, weights)


class TokenAttention(nn.Module):
    """Multi-head self-attention over the modalities that are there, in its explicit form: it has a second derivative
    on every device, and there are only M tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.split = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)

    def forward(self, u: Tensor, real: Tensor | None) -> Tensor:
        """(N, M, width) to the same shape; `real` (N, M) says which tokens may be looked at."""
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.split(u).chunk(3, dim=2))
        score = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        if real is not None:
            score = score.masked_fill(~real[:, None, None], torch.finfo(score.dtype).min)
        return self.join((score.softmax(dim=3) @ v).transpose(1, 2).flatten(2))
