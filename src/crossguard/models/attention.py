"""Self-attention over frames whose maps can be watched, layer by layer, by whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.errors import ModelError


@dataclass
class Watch:
    """Keeps `keep(map)` of every map (N, heads, queries, keys) made while it watches, in the order of the layers.

    Rows of queries that are not real are 0. With `checkpoint`, a layer's maps are made again on the way back instead of
    being kept, so that those of one layer at a time are alive; `keep` must then return something small.
    """

    keep: Callable[[Tensor], Tensor] = lambda a: a
    checkpoint: bool = False
    kept: list[Tensor] = field(default_factory=list[Tensor])


# A context variable, so that models need not pass it on, and threads do not see one another's.
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


def watched() -> Watch | None:
    """Who watches, None where nobody does: then no map is made."""
    return _WATCH.get()


@contextmanager
def watching(watch: Watch | None) -> Generator[Watch | None]:
    """Have `watch` see the maps of all attention of this project that runs meanwhile; None: nobody."""
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def show(a: Tensor, real: Tensor | None) -> None:
    """Let who watches see a map (N, heads, queries, keys); `real` (N, queries) says which queries are."""
    watch = _WATCH.get()
    if watch is not None:
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
        return self.join(self.attend(x, q, k, v, real, time).transpose(1, 2).flatten(2))

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, time: Tensor | None) -> Tensor:
        """What each head (N, heads, T, width / heads) gathers."""
        seen = keys(real)
        if _WATCH.get() is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        a = weights(q, k, seen)
        show(a, real)
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
        if _WATCH.get() is not None:
            show(share[:, None, None].expand(-1, 1, x.shape[1], -1), real)
        return self.join((share[:, None] @ self.value(x)).expand_as(x))


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
