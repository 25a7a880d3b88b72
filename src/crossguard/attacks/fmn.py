"""FMN: how far a sample is from being fooled, by a search in a ball that shrinks where it fools and grows elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossguard.attacks.arguments import check_arguments
from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult, share
from crossguard.attacks.search import search
from crossguard.attacks.start import clean
from crossguard.core.batch import Inputs, expand_mask, flat
from crossguard.core.task import Task
from crossguard.threat import Ball, ThreatModel

# No sample is looked for farther away than this many budgets, where no bounds end the search before (our choice).
FARTHEST = 1e6
# What the rates of the steps and of the radius fall to (Pintor et al. 2021: 0.01 of the first step, and 0.001).
LAST_STEP = 0.01
LAST_GROWTH = 0.001


@dataclass(frozen=True)
class Memory:
    """By row: the radius in budgets, the smallest at which the row was fooled, and the balls of one budget."""

    share: Tensor
    best: Tensor
    unit: dict[str, Ball]


@dataclass(frozen=True)
class AdaptiveNorm:
    """The step rule of FMN; `units` (modality -> (N,)) are the radii of one budget, for rows that are the samples."""

    threat: ThreatModel
    units: dict[str, Tensor]
    steps: int
    step_size: float
    growth: float
    gradient: ClassVar[bool] = True
    loss: ClassVar[bool] = True

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> Memory:
        still = self.share(point, balls)
        return Memory(still, torch.full_like(still, torch.inf), {n: b.resized(self.units[n]) for n, b in balls.items()})

    def move(
        self, memory: Memory, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, Memory]:
        left = (1 + math.cos(math.pi * step / self.steps)) / 2
        growth = LAST_GROWTH + (self.growth - LAST_GROWTH) * left
        step_size = self.step_size * (LAST_STEP + (1 - LAST_STEP) * left)
        gradient = {n: _free(g, balls[n]) for n, g in gradient.items()}
        here = self.share({n: balls[n].shown(x) for n, x in point.items()}, balls)
        loss = loss.to(here.dtype)
        fooled = loss >= 0
        best = torch.where(fooled, torch.fmin(here, memory.best), memory.best)
        # Until a row is fooled, the radius follows the distance to the boundary to first order (eq. 5 there): the loss
        # over what one budget gains, the dual norm. A little more, or rounding keeps it just short (our choice).
        gain = [flat(memory.unit[n].steepest(g) * g).sum(dim=1) for n, g in gradient.items()]
        ahead = torch.fmax(here - loss / torch.stack(gain).sum(dim=0), memory.share)
        larger = torch.where(best.isinf(), ahead, memory.share) * (1 + growth)
        wanted = torch.where(fooled, torch.fmin(memory.share * (1 - growth), best), larger).clamp(0, FARTHEST)
        moved: Inputs = {}
        for n, x in point.items():
            # Modalities may differ in their precision; shares have the finest of them.
            radius = (wanted * self.units[n]).to(x.dtype)
            ball = balls[n].resized(torch.minimum(radius, balls[n].radius))
            moved[n] = ball.ascend(x, gradient[n], step_size)
        return moved, replace(memory, share=wanted, best=best)

    def share(self, shown: Inputs, balls: Mapping[str, Ball]) -> Tensor:
        """(R,) the largest distance in budgets."""
        distance = {n: self.threat.budgets[n].distance(x, balls[n].x) for n, x in shown.items()}
        return torch.stack([share(d, self.units[n]) for n, d in distance.items()]).amax(dim=0)

    def score(self, shown: Inputs, balls: Mapping[str, Ball], gap: Tensor) -> Tensor:
        """(R,) lowest at the nearest point that fools; where none does, at the lowest margin."""
        return torch.where(gap <= 0, -1 / self.share(shown, balls).to(gap.dtype), gap)


def fmn(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    step_size: float = 2.0,
    growth: float = 0.2,
    task: Task | None = None,
    mask: Mapping[str, Tensor] | None = None,
    ids: Sequence[str | int] | Tensor | None = None,
    seed: int = 0,
    targeted: bool = False,
) -> AttackResult:
    """Fast minimum-norm attack (Pintor, Roli, Brendel and Biggio, NeurIPS 2021): the least change that fools.

    The budgets say only how the modalities compare: the search leaves them, up to the bounds, and `result.size` is by
    sample how many budgets it took, over all modalities the largest. `success` means fooled at any size; where nothing
    fooled, `size` is inf and `inputs` are those of the lowest margin. A sample that is wrong already has size 0.
    `growth`: the first rate by which the radius grows or shrinks. Our choice: instead of the gradient of Euclidean
    length 1 (10 for L-inf), which knows no units, each modality ascends by `step_size` x the current radius in its own
    norm, and `growth` is 0.2, not 0.05; both by what they found on two small networks (benchmarks/fmn.py).
    """
    check_arguments(inputs, targets, threat, mask, ids, task)
    wide = threat.settled(inputs).only(*threat.names).scaled(FARTHEST)  # a budget that allows nothing might wake
    units = {n: b.radius(inputs[n], (mask or {}).get(n)) for n, b in threat.budgets.items()}
    rule = AdaptiveNorm(threat, units, steps, step_size, growth)
    # Without restarts and with nobody leaving, the rows are the samples: `units` goes with them.
    plan = Plan("margin", rule, clean, steps, score=rule.score)
    found = search(
        plan, model, inputs, targets, wide, task=task, mask=mask, ids=ids, seed=seed, stop="never", targeted=targeted
    )
    return replace(found, threat=threat)


def _free(gradient: Tensor, ball: Ball) -> Tensor:
    """The gradient where entries may move; NaN counts as 0."""
    g = torch.nan_to_num(gradient, nan=0.0)
    return g if ball.mask is None else g * expand_mask(ball.mask, g)
