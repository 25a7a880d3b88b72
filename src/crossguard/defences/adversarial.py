"""Adversarial training: descend the loss at the worst point that an inner attack finds."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, cast

from torch import nn

from crossguard.attacks import ATTACKS
from crossguard.core.batch import Batch
from crossguard.core.errors import RecipeError, ThreatError
from crossguard.core.model import bare
from crossguard.core.task import Task
from crossguard.defences.objective import Context, Losses, Objective
from crossguard.defences.stacked import Stacked, StackedTask
from crossguard.defences.supervision import AuxiliaryWeight, check_heads, check_weight, supervise
from crossguard.threat import ThreatModel


@dataclass(frozen=True)
class Adversarial(Objective):
    """min E max L (Madry et al., ICLR 2018) with deep supervision: the loss of `Standard`, on attacked inputs.

    The inner attack takes `steps` steps of `step_size` x budget on the fused loss (`inner="fused"`) or on the whole
    loss ("total"), in eval mode, and its last point is trained on. `attacked`: "joint" (all modalities at once),
    "random" (each batch a random non-empty set of modalities that the threat model allows), or one modality's name.
    `clean_weight` c in [0, 1] mixes (1 - c) L(attacked) + c L(clean) (Goodfellow et al., ICLR 2015).
    """

    attack: str = "pgd"
    steps: int = 5
    step_size: float = 0.3
    attacked: str = "random"
    auxiliary_weight: AuxiliaryWeight = 1.0
    inner: Literal["fused", "total"] = "fused"
    clean_weight: float = 0.0

    def __post_init__(self) -> None:
        check_weight(self.auxiliary_weight)
        if self.attack not in ATTACKS:
            raise RecipeError(f"unknown attack {self.attack!r}; known: {sorted(ATTACKS)}")
        if self.steps < 1 or not 0 < self.step_size < float("inf"):
            raise RecipeError(
                f"found steps {self.steps}, step_size {self.step_size}; expected >= 1 and a finite number > 0, "
                f"a share of the budget"
            )
        if self.inner not in ("fused", "total") or not 0 <= self.clean_weight <= 1:
            raise RecipeError(
                f"found inner {self.inner!r}, clean_weight {self.clean_weight}; expected 'fused' or 'total', and [0, 1]"
            )

    def check(self, model: nn.Module, context: Context) -> None:
        """Raise ThreatError where there is nothing to attack, or not what `attacked` says; see also `check_heads`."""
        check_heads(self.auxiliary_weight, model)
        threat = context.threat
        if threat is None or not threat.names:
            raise ThreatError("adversarial training needs a threat model with a budget > 0; or train with `standard`")
        if self.attacked not in ("joint", "random", *threat.names):
            raise ThreatError(
                f"attacked is {self.attacked!r}; expected 'joint', 'random' or one of the attacked modalities "
                f"{sorted(threat.names)}"
            )
        if self.attacked == "joint" and (threat.at_most or len(threat.names)) < len(threat.names):
            raise ThreatError(
                f"attacked is 'joint', but the threat model lets only {threat.at_most} modalities be attacked at once; "
                f"say 'random'"
            )

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; `parts` also holds "clean" where `clean_weight` > 0."""
        attacked = supervise(model, self.perturb(model, batch, context), context, self.auxiliary_weight)
        if not self.clean_weight:
            return attacked
        clean = supervise(model, batch, context, self.auxiliary_weight)
        total = (1 - self.clean_weight) * attacked.total + self.clean_weight * clean.total
        return replace(attacked, total=total, parts={**attacked.parts, "clean": clean.total.detach()})

    def chosen(self, context: Context) -> ThreatModel:
        """The budgets that this step's attack may use."""
        threat = context.threat
        assert threat is not None, "check() saw a threat model"
        if self.attacked == "joint":
            return threat.only(*threat.names)
        if self.attacked != "random":
            return threat.only(self.attacked)
        most = threat.at_most or len(threat.names)
        sets = [s for k in range(1, most + 1) for s in combinations(threat.names, k)]
        return threat.only(*sets[context.draw(1) % len(sets)])

    def perturb(self, model: nn.Module, batch: Batch, context: Context) -> Batch:
        """The batch at the inner attack's last point."""
        attack = ATTACKS[self.attack]
        known = inspect.signature(attack).parameters
        options: dict[str, Any] = {n: getattr(self, n) for n in ("steps", "step_size") if n in known}
        net, task = bare(model), context.task
        if self.inner == "total":
            net = Stacked(net)
            task = cast("Task", StackedTask(task, self.auxiliary_weight, net))
        with context.precision(weights=False):
            result = attack(
                net,
                batch.inputs,
                batch.targets,
                self.chosen(context),
                task=task,
                mask=batch.mask,
                ids=batch.ids or None,
                seed=context.draw(2),
                stop="never",
                select="last",
                **options,
            )
        context.work.forwards += result.forwards
        context.work.backwards += result.backwards
        return batch.with_inputs(result.inputs)
