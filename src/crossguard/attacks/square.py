"""Random search with blocks of one sign: no gradient is asked for, so none can mislead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import clean
from crossguard.core.batch import Inputs
from crossguard.core.random import bits, combine, text_key
from crossguard.threat import ThreatModel
from crossguard.threat.ball import shaped_uniform
from crossguard.threat.budget import Ball, spread

# Axes this short are channels, coordinates or persons: a block spans them whole, with a sign for each.
SHORT = 4
# The share of a sample that a block covers halves after these shares of the queries (section 5 of the paper).
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Memory:
    """By row: its key, the best sign field by modality with its loss, and the field that was last proposed."""

    key: Tensor
    field: Inputs
    proposed: Inputs
    loss: Tensor


@dataclass(frozen=True)
class Blocks:
    """Give a random block of one modality new signs; keep them where the loss grows.

    `threat` says what holds between modalities. Where a budget, or that, chooses entries or moments by what they gain,
    each sign has a random weight near 1, or the first of them would always win, and half of that where it was not
    chosen, so that a new block has a chance against all that were.
    """

    queries: int
    share: float
    threat: ThreatModel
    gradient: ClassVar[bool] = False
    loss: ClassVar[bool] = True

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> Memory:
        # From a given start go on with its signs; the clean point has none.
        signs = {n: (x - balls[n].x).sign() for n, x in point.items()}
        return Memory(key, signs, signs, key.new_full(key.shape, -torch.inf, dtype=torch.float32))

    def move(
        self, memory: Memory, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, Memory]:
        loss = loss.to(memory.loss.dtype)
        better = loss > memory.loss
        field = {n: torch.where(spread(better, f), f, memory.field[n]) for n, f in memory.proposed.items()}
        names, coupled = list(point), self.threat.frames is not None
        proposed = dict(field)
        for i, n in enumerate(names):
            key = combine(memory.key, step, text_key(n))
            weighted = coupled or not balls[n].entrywise
            if step == 0:
                proposed[n] = _stripes(key, point[n], weighted)
            elif i == step % len(names):
                proposed[n] = _block(key, field[n], self._size(step), weighted)
        moved = {n: balls[n].project(balls[n].x + balls[n].steepest(f)) for n, f in proposed.items()}
        moved = self.threat.couple(moved, balls, proposed)
        for n, f in proposed.items():
            if coupled or not balls[n].entrywise:
                proposed[n] = torch.where(moved[n] == balls[n].x, f.sign() / 2, f)
        return moved, Memory(memory.key, field, proposed, torch.fmax(loss, memory.loss))

    def _size(self, step: int) -> float:
        return self.share / 2 ** sum(step > h * self.queries for h in HALVINGS)


def _signs(key: Tensor, x: Tensor, long: list[int], weighted: bool) -> Tensor:
    """Random signs, one for each index of the axes that are not in `long`; `weighted`: entry by entry."""
    shape = [1 if axis in long else size for axis, size in enumerate(x.shape) if axis]
    raw = bits(combine(key, 1), int(torch.Size(shape).numel())).view(-1, *shape)
    signs = torch.where(raw > 0, 1.0, -1.0).to(x.dtype)
    return signs * (1 + shaped_uniform(combine(key, 2), x) / 16) if weighted else signs


def _long(x: Tensor) -> list[int]:
    return [axis for axis in range(1, x.dim()) if x.shape[axis] > SHORT]


def _stripes(key: Tensor, x: Tensor, weighted: bool) -> Tensor:
    """Signs that change along the last long axis alone (the paper's vertical stripes)."""
    return _signs(key, x, _long(x)[:-1], weighted).expand_as(x).clone()


def _block(key: Tensor, field: Tensor, share: float, weighted: bool) -> Tensor:
    """The field with new signs in a random window that covers about `share` of it."""
    long = _long(field)
    inside = torch.ones((), dtype=torch.bool, device=field.device)
    for axis in long:
        size = field.shape[axis]
        width = min(size, max(1, round(size * share ** (1 / len(long)))))
        draw = (bits(combine(key, 2 + axis), 1) >> 40 & 0xFFFFFF).to(torch.float64) / 2**24
        first = (draw * (size - width + 1)).long().view(-1, *(1,) * (field.dim() - 1))
        place = torch.arange(size, device=field.device).view(-1, *(1,) * (field.dim() - 1 - axis))
        inside = inside & (place >= first) & (place < first + width)
    return torch.where(inside, _signs(key, field, long, weighted), field)


def square(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 5000,
    share: float = 0.8,
    restarts: int = 1,
    **search_options: Any,
) -> AttackResult:
    """Square attack (Andriushchenko et al., ECCV 2020) on tensors of any rank: random search on the margin.

    Our choices beyond the paper's images: a block spans short axes whole and a window of every long one; modalities
    take turns; L2 spreads the sign field over the whole sphere. The rest is `crossguard.attacks.search`'s.
    """
    plan = Plan("margin", Blocks(queries, share, threat.settled(inputs)), clean, queries, restarts)
    return search(plan, model, inputs, targets, threat, **search_options)
