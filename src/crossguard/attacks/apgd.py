"""Auto-PGD: a step size that halves itself by row, momentum, and restarts from the best point so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossguard.attacks.objective import Objective
from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import uniform
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel
from crossguard.threat.ball import Ball, blend, spread

MOMENTUM = 0.75
ENOUGH_GAINS = 0.75


@dataclass(frozen=True)
class Memory:
    """By row: the step in budgets, the best point with its gradient, and what happened since the last checkpoint."""

    step: Tensor
    previous: Inputs
    best: Inputs
    gradient: Inputs
    best_loss: Tensor
    last_loss: Tensor
    gains: Tensor
    checkpoint_loss: Tensor
    halved: Tensor


def checkpoints(steps: int) -> list[int]:
    """The steps after which progress is judged (Croce and Hein 2020, section 3.1)."""
    found, share, stride = [0], 0.22, 0.22
    while round(share * steps) < steps:
        if round(share * steps) > found[-1]:
            found.append(round(share * steps))
        stride = max(stride - 0.03, 0.06)
        share += stride
    return found[1:]


@dataclass(frozen=True)
class AutoStep:
    """The step rule of APGD for an attack of `steps` moves."""

    steps: int
    gradient: ClassVar[bool] = True
    loss: ClassVar[bool] = True

    @cached_property
    def marks(self) -> list[int]:
        """The checkpoints of this attack."""
        return checkpoints(self.steps)

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> Memory:
        x = next(iter(point.values()))
        ones = x.new_ones(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
        low = torch.full_like(ones, -torch.inf)
        none = torch.zeros_like(ones, dtype=torch.int64)
        return Memory(2 * ones, point, point, point, low, low, none, low, none.bool())

    def move(
        self, memory: Memory, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, Memory]:
        loss = loss.to(memory.best_loss.dtype)
        better = loss > memory.best_loss
        memory = replace(
            memory,
            best={n: blend(better, x, memory.best[n]) for n, x in point.items()},
            gradient={n: _choose(better, g, memory.gradient[n]) for n, g in gradient.items()},
            best_loss=torch.fmax(loss, memory.best_loss),
            gains=memory.gains + (loss > memory.last_loss) * (step > 0),
            last_loss=loss,
        )
        if step in self.marks:
            since = step - max((m for m in self.marks if m < step), default=0)
            stuck = memory.gains < ENOUGH_GAINS * since
            stalled = ~memory.halved & (memory.best_loss <= memory.checkpoint_loss)
            halve = stuck | stalled
            memory = replace(
                memory,
                step=torch.where(halve, memory.step / 2, memory.step),
                gains=torch.zeros_like(memory.gains),
                checkpoint_loss=memory.best_loss,
                halved=halve,
            )
            point = {n: blend(halve, memory.best[n], x) for n, x in point.items()}
            gradient = {n: _choose(halve, memory.gradient[n], g) for n, g in gradient.items()}
        inertia = 1.0 if step == 0 else MOMENTUM
        moved: Inputs = {}
        for n, x in point.items():
            ball = balls[n]
            ahead = ball.ascend(x, gradient[n], memory.step)
            moved[n] = ball.project(x + inertia * (ahead - x) + (1 - inertia) * (x - memory.previous[n]))
        return moved, replace(memory, previous=point)


def _choose(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(spread(flags, yes), yes, no)


def apgd(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    objective: str | Objective = "cross_entropy",
    restarts: int = 1,
    **search_options: Any,
) -> AttackResult:
    """Auto-PGD (Croce and Hein, ICML 2020), with one step size for all modalities, in shares of their budgets.

    The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, targeted, start.
    """
    plan = Plan(objective, AutoStep(steps), uniform, steps, restarts)
    return search(plan, model, inputs, targets, threat, **search_options)


def apgd_t(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    objective: str | Objective = "targeted_dlr",
    rivals: int | tuple[int, ...] = 9,
    restarts: int = 1,
    **search_options: Any,
) -> AttackResult:
    """APGD once towards each of the `rivals` most likely wrong classes (a tuple: towards those ranks), all at once.

    Croce and Hein, ICML 2020; with several labels towards absent classes, above all present ones (our choice). The
    rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, start.
    """
    ranks = tuple(range(rivals)) if isinstance(rivals, int) else rivals
    plan = Plan(objective, AutoStep(steps), uniform, steps, restarts, ranks)
    return search(plan, model, inputs, targets, threat, **search_options)
