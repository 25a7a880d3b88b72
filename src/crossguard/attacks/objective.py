"""What an attack climbs: (logits, targets, task, targeted) -> (N,), larger is worse for the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from crossguard.core.task import Task

Objective: TypeAlias = Callable[[Tensor, Tensor, Task, bool], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor, task: Task, targeted: bool) -> Tensor:
    """The task's own training loss: cross-entropy, or binary cross-entropy for several labels."""
    loss = task.loss(logits, targets)
    return -loss if targeted else loss


def margin(logits: Tensor, targets: Tensor, task: Task, targeted: bool) -> Tensor:
    """Best wrong logit minus true logit (Carlini and Wagner, S&P 2017), which does not saturate."""
    gap = task.margin(logits, targets)
    return gap if targeted else -gap


def dlr(logits: Tensor, targets: Tensor, task: Task, targeted: bool) -> Tensor:
    """Difference of logits ratio (Croce and Hein, ICML 2020): the margin over the spread of the top logits, so that
    scaling or shifting logits changes nothing. The spread is that of the first and third logit, as in the paper, and
    is held fixed with two classes, where the ratio itself would be constant."""
    gap = margin(logits, targets, task, targeted)
    if logits.shape[1] < 3:
        return gap / logits.detach().abs().amax(dim=1).clamp_min(1e-12)
    top = logits.topk(3, dim=1).values
    return gap / (top[:, 0] - top[:, 2]).clamp_min(1e-12)


OBJECTIVES: dict[str, Objective] = {"cross_entropy": cross_entropy, "dlr": dlr, "margin": margin}
