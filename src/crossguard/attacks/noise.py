"""Random noise in the budget: what a sensor might do, and the floor that every attack must beat."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import uniform
from crossguard.attacks.step import Steepest
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel


def noise(
    model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, *, trials: int = 1, **search_options: Any
) -> AttackResult:
    """The worst of `trials` random points of the budget, without a single gradient.

    The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, targeted, start.
    """
    plan = Plan("margin", Steepest(0.0), uniform, steps=0, restarts=trials)
    return search(plan, model, inputs, targets, threat, **search_options)
