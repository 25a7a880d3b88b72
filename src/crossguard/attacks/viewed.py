"""Attacks through what a model offers to attackers in place of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from crossguard.attacks.result import AttackResult
from crossguard.core import Batch, Task, borrowed, forward
from crossguard.core.model import attack_view
from crossguard.threat import ThreatModel


def viewed(
    attack: Callable[..., AttackResult],
    model: nn.Module,
    batch: Batch,
    threat: ThreatModel,
    *,
    task: Task,
    **options: Any,
) -> AttackResult:
    """`attack` on a batch through the model's `attack_view()`, where it has one; `margin` and `success`, where points
    are examined, are what the model itself says of what was found (an attack returns nothing outside its budgets)."""
    with borrowed(model) as net:
        view = attack_view(net)
        found = attack(
            view, batch.inputs, batch.targets, threat, task=task, mask=batch.mask, ids=batch.ids or None, **options
        )
        if view is net or options.get("select") == "last":
            return found
        with torch.no_grad():
            margin = task.margin(forward(net, found.inputs, batch.mask).logits, batch.targets)
    return replace(found, margin=margin, success=margin <= 0, forwards=found.forwards + len(batch))
