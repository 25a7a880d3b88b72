"""Training on random noise in the budget: what any adversarial training must beat."""

# Annotations are not postponed here: see `supervision`.

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from crossguard.core.batch import Batch
from crossguard.core.errors import RecipeError
from crossguard.core.random import combine, sample_keys, text_key
from crossguard.defences.adversarial import Adversarial
from crossguard.defences.objective import Context, Losses
from crossguard.defences.supervision import Supervised


@dataclass(frozen=True, kw_only=True)
class Noise(Supervised):
    """The losses of `Supervised` at a random point of `scale` x the budget, another every step; no attack is run.

    `attacked` and `clean_weight` as in `Adversarial`.
    """

    robust: ClassVar[bool] = False

    attacked: str = "joint"
    scale: float = 1.0
    clean_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < float("inf") or not 0 <= self.clean_weight <= 1:
            raise RecipeError(
                f"found scale {self.scale}, clean_weight {self.clean_weight}; expected a finite number > 0, and [0, 1]"
            )

    def check(self, model: nn.Module, context: Context) -> None:
        """See `Adversarial.check`."""
        super().check(model, context)
        Adversarial(attacked=self.attacked).check(model, context)

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; `parts` also holds "clean" where `clean_weight` > 0."""
        batch = self.dropped(model, batch, context)
        threat = Adversarial(attacked=self.attacked).chosen(context, batch.inputs).scaled(self.scale)
        balls = threat.balls(batch.inputs, batch.mask)
        keys = combine(sample_keys(batch.ids or None, batch.inputs), context.draw(6))
        drawn = {n: ball.uniform(combine(keys, text_key(n))) for n, ball in balls.items()}
        noisy = batch.with_inputs({**batch.inputs, **threat.repair(drawn, balls)})
        losses = self.supervise(model, noisy, context)
        if not self.clean_weight:
            return losses
        clean = self.supervise(model, batch, context)
        total = (1 - self.clean_weight) * losses.total + self.clean_weight * clean.total
        return replace(losses, total=total, parts={**losses.parts, "clean": clean.total.detach()})
