"""The fast gradient (sign) method."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crossguard.attacks.objective import Objective
from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import clean
from crossguard.attacks.step import Steepest
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel


def fgsm(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    objective: str | Objective = "cross_entropy",
    **search_options: Any,
) -> AttackResult:
    """One steepest move of the whole budget from the clean input (Goodfellow et al., ICLR 2015).

    The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, targeted, start.
    """
    return search(Plan(objective, Steepest(1.0), clean, steps=1), model, inputs, targets, threat, **search_options)
