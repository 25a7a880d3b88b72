"""Adversarial training: descend the loss at the worst point that an inner attack finds."""

# Annotations are not postponed here: subclasses have these in the signatures by which recipes are checked.

import inspect
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from torch import nn

from crossguard.attacks import ATTACKS
from crossguard.core.batch import Batch, Inputs
from crossguard.core.errors import RecipeError, ThreatError
from crossguard.core.model import attack_view, borrowed
from crossguard.defences.objective import Context, Losses
from crossguard.defences.stacked import Stacked, StackedTask
from crossguard.defences.supervision import Supervised
from crossguard.threat import ThreatModel

_ONE_MOVE = ("fgsm", "noise")  # take no steps, and cost no more than one


def takes(attack: str) -> set[str]:
    """The options by name that an attack of the registry has of its own."""
    return set(inspect.signature(ATTACKS[attack]).parameters)


@dataclass(frozen=True, kw_only=True)
class Adversarial(Supervised):
    """min E max L (Madry et al., ICLR 2018): the losses of `Supervised`, on attacked inputs.

    The inner attack takes `steps` steps of `step_size` x budget on the fused loss (`inner="fused"`) or also on
    the auxiliary ones ("total"), in eval mode, and its last point is trained on. `attacked`: "joint" (all modalities at
    once), "random" (each batch a random non-empty set of modalities that the threat model allows), "single" (each batch
    a random one), or one modality's name.
    `clean_weight` c in [0, 1] mixes (1 - c) L(attacked) + c L(clean) (Goodfellow et al., ICLR 2015). `clean_start`: the
    share of all steps, the first ones, that train on clean samples alone: a model that cannot tell its classes yet has
    nothing to lose to an attack (our choice; 0 is none).
    """

    attack: str = "pgd"
    steps: int = 5
    step_size: float = 0.3
    attacked: str = "random"
    inner: Literal["fused", "total"] = "fused"
    clean_weight: float = 0.0
    clean_start: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack not in ATTACKS:
            raise RecipeError(f"unknown attack {self.attack!r}; known: {sorted(ATTACKS)}")
        if self.attack not in _ONE_MOVE and "steps" not in takes(self.attack):
            known = sorted(name for name in ATTACKS if name in _ONE_MOVE or "steps" in takes(name))
            raise RecipeError(
                f"the attack {self.attack!r} takes no steps, it would search at its own length in every step of "
                f"training; expected one of {known}"
            )
        if self.steps < 1 or not 0 < self.step_size < float("inf"):
            raise RecipeError(
                f"found steps {self.steps}, step_size {self.step_size}; expected >= 1 and a finite number > 0, "
                f"a share of the budget"
            )
        if self.inner not in ("fused", "total") or not 0 <= self.clean_weight <= 1:
            raise RecipeError(
                f"found inner {self.inner!r}, clean_weight {self.clean_weight}; expected 'fused' or 'total', and [0, 1]"
            )
        if not 0 <= self.clean_start < 1:
            raise RecipeError(f"found clean_start {self.clean_start}, expected a share of the steps in [0, 1)")

    def check(self, model: nn.Module, context: Context) -> None:
        """Raise ThreatError where there is nothing to attack, or not what `attacked` says; see also `check_heads`."""
        super().check(model, context)
        threat = context.threat
        if threat is None or not threat.names:
            raise ThreatError("adversarial training needs a threat model with a budget > 0; or train with `standard`")
        if self.attacked not in ("joint", "random", "single", *threat.names):
            raise ThreatError(
                f"attacked is {self.attacked!r}; expected 'joint', 'random', 'single' or one of the attacked "
                f"modalities {sorted(threat.names)}"
            )
        if self.attacked == "joint" and (threat.at_most or len(threat.names)) < len(threat.names):
            raise ThreatError(
                f"attacked is 'joint', but the threat model lets only {threat.at_most} modalities be attacked at once; "
                f"say 'random'"
            )

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; `parts` also holds "clean" where `clean_weight` > 0."""
        batch = self.dropped(model, batch, context)
        if self.begins(context):
            return self.supervise(model, batch, context)
        attacked = self.supervise(model, self.perturb(model, batch, context), context, self.chosen(context).names)
        if not self.clean_weight:
            return attacked
        clean = self.supervise(model, batch, context)
        total = (1 - self.clean_weight) * attacked.total + self.clean_weight * clean.total
        return replace(attacked, total=total, parts={**attacked.parts, "clean": clean.total.detach()})

    def begins(self, context: Context) -> bool:
        """See `Objective.begins`."""
        return context.step < self.clean_start * context.steps

    def chosen(self, context: Context, inputs: Inputs | None = None) -> ThreatModel:
        """The budgets that this step's attack may use, on `inputs` where more than the modalities is asked for."""
        assert context.threat is not None, "check() saw a threat model"
        threat = context.threat if inputs is None else context.threat.settled(inputs)
        if self.attacked == "joint":
            return threat.only(*threat.names)
        if self.attacked not in ("random", "single"):
            return threat.only(self.attacked)
        most = 1 if self.attacked == "single" else threat.at_most or len(threat.names)
        sets = [s for k in range(1, most + 1) for s in combinations(threat.names, k)]
        return threat.only(*sets[context.draw(1) % len(sets)])

    def perturb(self, model: nn.Module, batch: Batch, context: Context, **options: Any) -> Batch:
        """The batch at the inner attack's last point, found through the `attack_view()` that the model may offer;
        `options` are further ones of the attack."""
        attack = ATTACKS[self.attack]
        known = takes(self.attack)
        options |= {n: getattr(self, n) for n in ("steps", "step_size") if n in known}
        if "rivals" in known:
            options["rivals"] = 1  # the nearest wrong class alone: no last point is better than another
        with context.precision(weights=False), borrowed(model) as lent:
            net, task = attack_view(lent), context.task
            if self.inner == "total":
                net = Stacked(net)
                task = StackedTask(task, self.auxiliary_weight, net)
            result = attack(
                net,
                batch.inputs,
                batch.targets,
                self.chosen(context, batch.inputs),
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
