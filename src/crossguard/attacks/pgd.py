"""Projected gradient descent."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crossguard.attacks.objective import Objective
from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import uniform
from crossguard.attacks.step import Steepest
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel


def pgd(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 20,
    step_size: float = 0.125,
    objective: str | Objective = "cross_entropy",
    restarts: int = 1,
    **search_options: Any,
) -> AttackResult:
    """Projected gradient descent (Madry et al., ICLR 2018): steepest moves of `step_size` x budget from a random start.

    The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, targeted, start.
    """
    plan = Plan(objective, Steepest(step_size), uniform, steps, restarts)
    return search(plan, model, inputs, targets, threat, **search_options)
