"""Self-attention over frames whose maps can be watched, layer by layer, by whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.errors import ModelError

Sight: TypeAlias = Literal["maps", "gathered"]


@dataclass
class Watch:
    """Keeps `keep(seen)` of all attention that runs while it watches, in the order of the layers.

    What is seen is `of` its maps (N, heads, queries, keys), or what each head gathers by them (N, heads, queries,
    channels), for which no map is made. Rows of queries that are not real are 0. With `checkpoint`, a layer's maps are
    made again on the way back instead of being kept, so that those of one layer at a time are alive; `keep` must then
    return something small.
    """

    keep: Callable[[Tensor], Tensor] = lambda a: a
    checkpoint: bool = False
    of: Sight = "maps"
    kept: list[Tensor] = field(default_factory=list[Tensor])


# A context variable, so that models need not pass it on, and threads do not see one another's.
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


def watched() -> Watch | None:
    """Who watches, None where nobody does."""
    return _WATCH.get()


@contextmanager
def watching(watch: Watch | None) -> Generator[Watch | None]:
    """Have `watch` see all attention of this project that runs meanwhile; None: nobody."""
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def looked_at(of: Sight) -> bool:
    """Whether somebody watches the maps, or what is gathered; nobody else has a map made."""
    watch = _WATCH.get()
    return watch is not None and watch.of == of


def show(of: Sight, a: Tensor, real: Tensor | None) -> None:
    """Let who watches `of` see it, (N, heads, queries, …); `real` (N, queries) says which queries are."""
    watch = _WATCH.get()
    if watch is not None and watch.of == of:
        watch.kept.append(watch.keep(a if real is None else a * real[:, None, :, None].to(a.dtype)))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., NeurIPS 2017) over the frames that are real.

    Without a watch through PyTorch's fused kernels; with one in the explicit form, equal up to rounding.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ModelError(f"attention: width {width} in {heads} heads; expected heads >= 1 that divide the width")
        self.heads = heads
        self.split = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None, time: Tensor | None = None) -> Tensor:
        """(N, T, width) to the same; `real` (N, T) bool says which frames may be looked at, None: all; `time` (T,) when
        each of them is, None: one after another."""
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.split(x).chunk(3, dim=2))
        gathered = self.attend(x, q, k, v, real, time)
        show("gathered", gathered, real)
        return self.join(gathered.transpose(1, 2).flatten(2))

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, time: Tensor | None) -> Tensor:
        """What each head (N, heads, T, width / heads) gathers."""
        seen = keys(real)
        if not looked_at("maps"):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        a = weights(q, k, seen)
        show("maps", a, real)
        return a @ v


class Averaging(nn.Module):
    """The control for attention: every frame gathers the mean over real frames, whatever they hold."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.join = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None, time: Tensor | None = None) -> Tensor:
        """(N, T, width) to the same."""
        share = _share(x, real)
        gathered = (share[:, None] @ self.value(x)).expand_as(x)
        if looked_at("maps"):
            show("maps", share[:, None, None].expand(-1, 1, x.shape[1], -1), real)
        show("gathered", gathered[:, None], real)
        return self.join(gathered)


def keys(real: Tensor | None) -> Tensor | None:
    """(N, 1, 1, T) bool: what may be looked at. A sample without any real frame looks at all, or its softmax would be
    of nothing; what it gathers counts nowhere."""
    return None if real is None else (real | ~real.any(dim=1, keepdim=True))[:, None, None]


def weights(q: Tensor, k: Tensor, seen: Tensor | None) -> Tensor:
    """(N, heads, queries, keys): softmax of q k / sqrt(d), exactly 0 for keys that are not `seen`."""
    score = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    return (score if seen is None else score.masked_fill(~seen, -torch.inf)).softmax(dim=3)


def _share(x: Tensor, real: Tensor | None) -> Tensor:
    """(N, T): an even share of every real frame."""
    weight = x.new_ones(x.shape[:2]) if real is None else real.to(x.dtype)
    return weight / weight.sum(dim=1, keepdim=True).clamp_min(1)
