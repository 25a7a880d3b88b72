"""Carlini and Wagner's objective within a budget."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crossguard.attacks.pgd import pgd
from crossguard.attacks.result import AttackResult
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel


def cw(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    step_size: float = 0.05,
    restarts: int = 1,
    **search_options: Any,
) -> AttackResult:
    """PGD on the margin of Carlini and Wagner (S&P 2017), as robustness papers report "CW" within a budget (Madry et
    al., ICLR 2018); for the least perturbation, their original question, take `fmn`.

    The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, stop, select, targeted, start.
    """
    return pgd(
        model, inputs, targets, threat, steps=steps, step_size=step_size, objective="margin", restarts=restarts,
        **search_options,
    )  # fmt: skip
