"""A Transformer encoder over frame features (Vaswani et al., NeurIPS 2017; pre-norm as in Xiong et al., ICML 2020)."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ModelError
from crossguard.models.attention import Attention, Averaging, keys, show, watched, watching
from crossguard.models.encoder import Encoder, affine, check_sizes, frame_mask, mean_over_time, scales
from crossguard.models.gat import GatedAttention

Mixing: TypeAlias = Literal["attention", "gate", "mean"]
Pool: TypeAlias = Literal["attention", "token", "mean"]


class FrameTransformer(Encoder):
    """Frame features "NTD" in their unit to (N, `width`, T); stages project, then layer1 to layer`layers`.

    (x - `mean`) / `std` and a linear projection come first, then a sine position where `position`, then the layers;
    with `layers=0` frames stay apart, for a fusion that joins modalities frame by frame. `mixing` is what frames gather
    by: "attention", "gate" (see `GatedAttention`, `window` frames to each side), or as a control "mean". `pool`:
    "attention" (see `Pooling`), a class "token" (one more column of the map, the last), or "mean". Masked frames (N, T)
    are never looked at. Raises ModelError for more than `frames` frames, or none.
    """

    def __init__(
        self,
        *,
        features: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 8,
        mixing: Mixing = "attention",
        window: int = 8,
        pool: Pool = "attention",
        dropout: float = 0.1,
        position: bool = True,
        frames: int = 300,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
    ) -> None:
        super().__init__()
        check_sizes("FrameTransformer", features=features, width=width, frames=frames)
        check_options("FrameTransformer", layers, mixing, pool, dropout)
        self.features, self.width, self.frames, self.position = features, width, frames, position
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(affine(mean, features, "FrameTransformer mean")), persistent=False)
        self.register_buffer("std", torch.tensor(scales(std, features, "FrameTransformer std")), persistent=False)
        self.project = nn.Linear(features, width)
        self.stages = ("project", *(f"layer{i + 1}" for i in range(layers)))
        for name in self.stages[1:]:
            self.add_module(name, Block(width, heads, mixing, window, dropout))
        self.token = nn.Parameter(torch.randn(width) / math.sqrt(width)) if pool == "token" else None
        self.pooling = Pooling(width, heads, pool)
        self.dims = dict.fromkeys(self.stages, width)

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised features, 0 where they are masked out."""
        self.expect(x, "NTD", D=self.features)
        if not 1 <= x.shape[1] <= self.frames:
            raise ModelError(
                f"FrameTransformer: found {x.shape[1]} frames, expected 1 to {self.frames}; cut or thin out the "
                f"video, or build the encoder with more `frames`"
            )
        x = (x - self.mean) / self.std
        return x if mask is None else x.where(expand_mask(mask, x), torch.zeros_like(x))

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """Projection, position and class token; or a layer."""
        if name != "project":
            x = x.transpose(1, 2)
            return run_block(self.get_submodule(name), x, self._real(x, mask)).transpose(1, 2)
        x = self.project(x)
        if self.position:
            x = x + sine(x.shape[1], self.width, x)
        if self.token is not None:
            x = torch.cat([x, self.token.expand(len(x), 1, -1)], dim=1)
        return x.transpose(1, 2)

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, width) of the frames that are real."""
        x = x.transpose(1, 2)
        return self.pooling(x, self._real(x, mask))

    def _real(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """(N, T) of the map's columns; a class token is always real."""
        extra = int(self.token is not None)
        real = frame_mask(mask, x.shape[1] - extra)
        return torch.cat([real, real.new_ones(len(real), 1)], dim=1) if real is not None and extra else real


class Block(nn.Module):
    """x + mix(norm x), then x + perceptron(norm x), four times as wide within."""

    def __init__(self, width: int, heads: int, mixing: Mixing, window: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix: nn.Module = (
            Attention(width, heads) if mixing == "attention"
            else GatedAttention(width, heads, window) if mixing == "gate"
            else Averaging(width)
        )  # fmt: skip
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor | None, time: Tensor | None = None) -> Tensor:
        """(N, T, width) to the same."""
        x = x + self.drop(self.mix(self.norm1(x), real, time))
        return x + self.drop(self.perceptron(self.norm2(x)))


class Pooling(nn.Module):
    """(N, T, width) to (N, width), after a last norm: by attention, the class token at the end, or the mean.

    "attention": each head has its own weights over real frames, softmax_t(w_h x_t), for its own share of the channels
    of V x_t; its map (N, heads, 1, T) is shown as that of one more layer. Samples without a real frame give 0.
    """

    def __init__(self, width: int, heads: int, kind: Pool) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.norm = nn.LayerNorm(width)
        if kind == "attention":
            self.score, self.value = nn.Linear(width, heads), nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        x = self.norm(x)
        if self.kind == "token":
            return x[:, -1]
        if self.kind == "mean":
            return mean_over_time(x.transpose(1, 2), real)
        score, seen = self.score(x).transpose(1, 2)[:, :, None], keys(real)
        a = (score if seen is None else score.masked_fill(~seen, -torch.inf)).softmax(dim=3)
        there = None if real is None else real.any(dim=1, keepdim=True)
        show("maps", a, there)
        v = self.value(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        gathered = a @ v
        show("gathered", gathered, there)
        pooled = gathered.flatten(1)
        return pooled if there is None else pooled.where(there, torch.zeros_like(pooled))


def run_block(block: nn.Module, x: Tensor, real: Tensor | None, time: Tensor | None = None) -> Tensor:
    """A block, whose maps are made again on the way back where who watches wishes so."""
    watch = watched()
    if watch is None or not watch.checkpoint or not torch.is_grad_enabled():
        return block(x, real, time)

    def run(y: Tensor) -> Tensor:
        with watching(watch):  # nobody else may watch by the time it runs again
            return block(y, real, time)

    first = len(watch.kept)
    y: Tensor = checkpoint(run, x, use_reentrant=False)
    assert len(watch.kept) > first, "a block shows its maps while it runs"
    return y


def check_options(what: str, layers: int, mixing: str, pool: str, dropout: float) -> None:
    """Raise ModelError for options that cannot be meant."""
    if layers < 0 or not 0 <= dropout < 1:
        raise ModelError(f"{what}: found layers {layers}, dropout {dropout}; expected layers >= 0, dropout in [0, 1)")
    if mixing == "gate" and pool == "token":
        raise ModelError(f"{what}: a class token has no neighbours for mixing: gate; take pool: attention or mean")


def sine(frames: int, width: int, like: Tensor) -> Tensor:
    """(frames, width) sines and cosines of the frame's number at falling rates, in the type of `like`."""
    half = (width + 1) // 2
    rate = torch.exp(torch.arange(half, device=like.device) * (-math.log(10_000.0) / half))
    angle = torch.arange(frames, device=like.device)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width].to(like.dtype)
