"""The momentum iterative method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossguard.attacks.objective import Objective
from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import clean
from crossguard.core.batch import Inputs, flat
from crossguard.threat import ThreatModel
from crossguard.threat.budget import Ball, spread


@dataclass(frozen=True)
class Momentum:
    """Steepest moves along a decayed sum of L1-normalised gradients."""

    step_size: float
    decay: float
    gradient: ClassVar[bool] = True
    loss: ClassVar[bool] = False

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> Inputs:
        return {n: torch.zeros_like(x) for n, x in point.items()}

    def move(
        self, memory: Inputs, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, Inputs]:
        summed: Inputs = {}
        for n, g in gradient.items():
            size = flat(g).abs().mean(dim=1)
            unit = g / spread(torch.where(size > 0, size, 1.0), g)
            summed[n] = torch.nan_to_num(unit).add_(memory[n], alpha=self.decay)
        return {n: balls[n].ascend(x, summed[n], self.step_size) for n, x in point.items()}, summed


def mi_fgsm(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    decay: float = 1.0,
    objective: str | Objective = "cross_entropy",
    **search_options: Any,
) -> AttackResult:
    """Momentum iterative FGSM (Dong et al., CVPR 2018): `steps` moves of budget / `steps` from the clean input.

    The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, targeted, start.
    """
    plan = Plan(objective, Momentum(1 / max(steps, 1), decay), clean, steps)
    return search(plan, model, inputs, targets, threat, **search_options)
