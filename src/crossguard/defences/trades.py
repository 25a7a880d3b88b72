"""TRADES: answers must not move under attack (Zhang et al., ICML 2019, arXiv 1901.08573)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.attacks.objective import Goal, Objective
from crossguard.core.batch import Batch
from crossguard.core.errors import RecipeError
from crossguard.core.task import MultiLabel, Task
from crossguard.defences.adversarial import Adversarial, takes
from crossguard.defences.objective import Context, Losses
from crossguard.defences.term import full


def divergence(clean: Tensor, attacked: Tensor, task: Task) -> Tensor:
    """(N,) KL(p(x) || p(x + r)) in nats of two sets of logits (N, C).

    With several labels the mean over the classes' Bernoulli beliefs, as the training loss is one (our choice).
    """
    if isinstance(task, MultiLabel):
        present = clean.sigmoid() * (F.logsigmoid(clean) - F.logsigmoid(attacked))
        absent = (-clean).sigmoid() * (F.logsigmoid(-clean) - F.logsigmoid(-attacked))
        return (present + absent).mean(dim=1)
    before, after = clean.log_softmax(dim=1), attacked.log_softmax(dim=1)
    return (before.exp() * (before - after)).sum(dim=1)


def away_from(clean: Tensor) -> Objective:
    """What an attack climbs to move the answers of a batch away from `clean` (N, C); its rows must all stay."""

    def climbed(logits: Tensor, goal: Goal) -> Tensor:
        rows = clean.repeat_interleave(len(logits) // len(clean), dim=0)
        return divergence(rows, full(logits), goal.task)

    return climbed


@dataclass(frozen=True, kw_only=True)
class Trades(Adversarial):
    """The losses of `Supervised` at x, plus `beta` x KL(p(x) || p(x + r)) of the fused answers, gradients through both.

    The inner attack climbs that KL ("divergence", as published) or the task's loss ("loss": output KL at the price of
    adversarial training, nothing else changed). x is run once, in training mode, and what it says there is also what
    the attack leads away from (the authors run it a second time in eval mode).
    """

    beta: float = 6.0
    climb: Literal["divergence", "loss"] = "divergence"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < float("inf") or self.climb not in ("divergence", "loss"):
            raise RecipeError(
                f"found beta {self.beta}, climb {self.climb!r}; expected a finite number >= 0, and 'divergence' or "
                f"'loss'"
            )
        if self.clean_weight:
            raise RecipeError("clean_weight has no meaning in trades, whose loss is that of clean samples; set beta")
        if self.climb == "divergence" and self.inner == "total":
            raise RecipeError(
                "inner: total has no meaning with climb: divergence, which is of the fused answers alone; take inner: "
                "fused, or climb: loss"
            )
        # Only an attack with random starts has restarts.
        if self.climb == "divergence" and not {"objective", "restarts"} <= takes(self.attack):
            starts = "it starts at the clean samples, where the gradient is 0"
            why = starts if "objective" in takes(self.attack) else "it has a goal of its own"
            raise RecipeError(
                f"the attack {self.attack!r} cannot climb the divergence, {why}; take pgd, or climb: loss"
            )

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; `parts` also holds the "divergence"."""
        batch = self.dropped(model, batch, context)
        if self.begins(context):
            return self.supervise(model, batch, context)
        output = self.answer(model, batch, context)
        losses = self.judge(output, batch, context)
        if self.climb == "divergence":
            attacked = self.perturb(model, batch, context, objective=away_from(losses.logits))
        else:
            attacked = self.perturb(model, batch, context)
        moved = full(self.answer(model, attacked, context).logits)
        apart = divergence(full(output.logits), moved, context.task).mean()
        parts = {**losses.parts, "divergence": apart.detach()}
        return replace(losses, total=losses.total + self.beta * apart, parts=parts)
