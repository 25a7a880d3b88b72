"""One Transformer over the frames of all modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError
from crossguard.models.encoder import check_sizes
from crossguard.models.fusion.concat import head
from crossguard.models.fusion.fusion import Fusion
from crossguard.models.transformer import Block, Mixing, Pool, Pooling, check_options, run_block


class JointTransformer(Fusion):
    """Modalities meet frame by frame: as tokens of their own (`join="tokens"`, each with its modality's embedding) or
    joined per frame (`join="frames"`: the sum of their projections, which is a projection of their concatenation).

    Encoders give maps (N, C, T): frames as they are (`transformer` with layers: 0) or branches that have looked at
    themselves first. Joined per frame, modalities must have as many frames; a frame is real where any of them is. The
    head is linear, or a mixture where `experts` > 0. `mixing`, `window` and `pool` as in `FrameTransformer`. `prior`:
    the probability that a linear head gives every class at first (Lin et al., ICCV 2017), so that training on many rare
    labels need not begin by learning that they are rare.
    """

    maps = True

    def __init__(
        self,
        *,
        join: Literal["tokens", "frames"] = "tokens",
        width: int = 128,
        layers: int = 2,
        heads: int = 8,
        mixing: Mixing = "attention",
        window: int = 8,
        pool: Pool = "attention",
        dropout: float = 0.1,
        experts: int = 0,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        check_sizes("JointTransformer", width=width, heads=heads)
        check_options("JointTransformer", layers, mixing, pool, dropout)
        if experts < 0:
            raise ModelError(f"JointTransformer: experts is {experts}, expected >= 0 (0: a linear head)")
        if prior is not None and (experts or not 0 < prior < 1):
            raise ModelError(f"JointTransformer: prior is {prior}, expected 0 < prior < 1 and no experts ({experts})")
        self.how, self.width, self.experts, self.prior = join, width, experts, prior
        self.layers = nn.ModuleList([Block(width, heads, mixing, window, dropout) for _ in range(layers)])
        self.pooling = Pooling(width, heads, pool)
        self.token = nn.Parameter(torch.randn(width) * width**-0.5) if pool == "token" else None

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """Projections to one width, embeddings, and the head."""
        self.project = nn.ModuleDict({name: nn.Linear(dim, self.width) for name, dim in last.items()})
        kinds = {name: nn.Parameter(torch.randn(self.width) * self.width**-0.5) for name in last}
        self.kind = nn.ParameterDict(kinds if self.how == "tokens" else {})
        self.head = head(self.width, classes, 0, 0.0, self.experts)
        if self.prior is not None:
            nn.init.constant_(self.get_parameter("head.0.bias"), math.log(self.prior / (1 - self.prior)))

    def join(self, maps: Mapping[str, Tensor], real: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """The pooled frames (N, width) and their logits."""
        x, there = self._frames(maps, real) if self.how == "frames" else self._tokens(maps, real)
        if self.token is not None:
            x = torch.cat([x, self.token.expand(len(x), 1, -1)], dim=1)
            there = None if there is None else torch.cat([there, there.new_ones(len(there), 1)], dim=1)
        # What happens at one time is near, whichever modality it is of.
        time = torch.cat([torch.arange(m.shape[2], device=x.device) for m in maps.values()])[: x.shape[1]]
        for block in self.layers:
            x = run_block(block, x, there, time)
        fused = self.pooling(x, there)
        return fused, self.head(fused)

    def _frames(self, maps: Mapping[str, Tensor], real: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        lengths = {name: x.shape[2] for name, x in maps.items()}
        if len(set(lengths.values())) > 1:
            raise ModelError(f"join: frames needs as many frames of every modality, found {lengths}; take join: tokens")
        total: Tensor | None = None
        for name, x in maps.items():
            y, mask = self.project[name](x.transpose(1, 2)), real[name]
            y = y if mask is None else y.where(mask[..., None], torch.zeros_like(y))
            total = y if total is None else total + y
        assert total is not None
        masks = [m for m in real.values() if m is not None]
        return total, torch.stack(masks).any(dim=0) if len(masks) == len(maps) else None

    def _tokens(self, maps: Mapping[str, Tensor], real: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        x = torch.cat([self.project[n](m.transpose(1, 2)) + self.kind[n] for n, m in maps.items()], dim=1)
        if all(m is None for m in real.values()):
            return x, None
        there = [
            torch.ones(len(x), maps[n].shape[2], dtype=torch.bool, device=x.device) if m is None else m
            for n, m in real.items()
        ]
        return x, torch.cat(there, dim=1)
