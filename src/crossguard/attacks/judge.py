"""Inputs found in any other way, judged as an attack is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult
from crossguard.attacks.search import search
from crossguard.attacks.start import clean
from crossguard.attacks.step import Steepest
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel


def judge(
    model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, *, found: Inputs, **search_options: Any
) -> AttackResult:
    """What `model` says to `found`, the attacked modalities by name, projected into the budgets around `inputs`.

    With `stop="success"` a sample that is wrong already stays as it is, and so does one whose margin `found` raises;
    with "never" every sample is replaced. The rest is `crossguard.attacks.search`'s: task, mask, ids, seed, targeted.
    """
    plan = Plan("margin", Steepest(0.0), clean, steps=0)
    return search(plan, model, inputs, targets, threat, start=found, **search_options)
