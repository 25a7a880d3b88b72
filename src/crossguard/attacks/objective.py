"""What an attack climbs: (logits, goal) -> (R,), larger is worse for the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from crossguard.core.task import Task


@dataclass(frozen=True, slots=True)
class Goal:
    """What the rows are to be led to: away from `targets` or, if `targeted`, towards them; `rival` (R,) is the wrong
    class that a row aims at, where the plan names rivals."""

    targets: Tensor
    task: Task
    targeted: bool = False
    rival: Tensor | None = None


Objective: TypeAlias = Callable[[Tensor, Goal], Tensor]


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """The task's own training loss: cross-entropy, or binary cross-entropy for several labels."""
    loss = goal.task.loss(logits, goal.targets)
    return -loss if goal.targeted else loss


def cross_entropy_slope(logits: Tensor, goal: Goal) -> Tensor:
    """(R, C) the gradient of `cross_entropy`."""
    slope = goal.task.slope(logits, goal.targets)
    return -slope if goal.targeted else slope


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """Best wrong logit minus true logit (Carlini and Wagner, S&P 2017), which does not saturate."""
    gap = goal.task.margin(logits, goal.targets)
    return gap if goal.targeted else -gap


def targeted_margin(logits: Tensor, goal: Goal) -> Tensor:
    """The rival's logit minus the true one (MultiTargeted, Gowal et al., 2019)."""
    if goal.rival is None:  # one output alone has no rival
        return margin(logits, goal)
    rival = goal.rival[:, None]
    lead = logits.gather(1, rival).squeeze(1) - goal.task.own(logits, goal.targets)
    if goal.targets.dim() == 1:
        return lead
    # Of several labels so many may be present that a row is left without an absent one.
    return torch.where(goal.targets.gather(1, rival).squeeze(1) > 0, margin(logits, goal), lead)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio (Croce and Hein, ICML 2020): the margin over the spread of the first and third logit,
    so that scaling or shifting logits changes nothing."""
    spread = _spread(logits, goal, 3)
    # On the way to a target the margin is negative, and a wider spread alone would be a gain.
    return margin(logits, goal) / (spread.detach() if goal.targeted else spread)


def targeted_dlr(logits: Tensor, goal: Goal) -> Tensor:
    """The rival's lead over the spread of the first logit and the mean of the third and fourth (Croce and Hein, 2020,
    eq. 7)."""
    return targeted_margin(logits, goal) / _spread(logits, goal, 4)


def _spread(logits: Tensor, goal: Goal, least: int) -> Tensor:
    """The spread of the top logits down to the third or fourth. With fewer classes, or several labels, the ratio may
    be constant; there the spread of all logits, held fixed, keeps the scale and leaves the direction (our choice)."""
    logits = logits[:, : goal.task.classes]
    if logits.shape[1] < 2:
        return logits.detach().abs().squeeze(1).clamp_min(1e-12)
    if logits.shape[1] < least or goal.targets.dim() == 2:
        fixed = logits.detach()
        return (fixed.amax(dim=1) - fixed.amin(dim=1)).clamp_min(1e-12)
    top = logits.topk(least, dim=1).values
    return (top[:, 0] - top[:, 2:].mean(dim=1)).clamp_min(1e-12)


def ranking(logits: Tensor, goal: Goal) -> Tensor:
    """log(1 + sum over pairs of exp(absent - present)), a bound on the wrongly ranked pairs (LSEP, Li et al., CVPR
    2017), which is what mAP and GAP count.

    Without a present (absent) class the others are ranked against 0, as in the margin: high scores of a sample without
    any label cost precision too. A single label is the one that is present.
    """
    targets, logits = goal.targets, logits[:, : goal.task.classes]
    present = targets.bool() if targets.dim() == 2 else torch.zeros_like(logits).scatter(1, targets[:, None], 1).bool()
    # A finite fill: the gradient of an empty logsumexp would be NaN.
    absent = logits.masked_fill(present, -1e4).logsumexp(dim=1)
    missed = (-logits).masked_fill(~present, -1e4).logsumexp(dim=1)
    loss = F.softplus(torch.where(present.all(dim=1), 0.0, absent) + torch.where(present.any(dim=1), missed, 0.0))
    return -loss if goal.targeted else loss


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "dlr": dlr,
    "margin": margin,
    "ranking": ranking,
    "targeted_dlr": targeted_dlr,
    "targeted_margin": targeted_margin,
}

# Metrics of the ranking (GAP, MAP) are attacked by each of these over the whole set, and the attacker takes the worst:
# which it is depends on the budget. LSEP, blind to a shift of all logits of a sample, was weaker (docs/attention.md).
RANKED = ("cross_entropy", "margin")

# Gradients at the logits in closed form: on small models autograd's way through the loss is a fifth of a step.
SLOPES: dict[Objective, Objective] = {cross_entropy: cross_entropy_slope}
