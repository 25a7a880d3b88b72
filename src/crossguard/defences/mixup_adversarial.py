"""Mix-up of attacked samples."""

# Annotations are not postponed here: see `supervision`.

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from crossguard.core.batch import Batch
from crossguard.defences.adversarial import Adversarial
from crossguard.defences.mixup import Mixup
from crossguard.defences.objective import Context, Losses


@dataclass(frozen=True, kw_only=True)
class MixupAdversarial(Mixup, Adversarial):
    """`Mixup` of a batch in which each sample was attacked for its own label first, as `Adversarial` says.

    With `clean_weight` 0.5 the loss of interpolated adversarial training (Lamb et al., AISec 2019), with the same
    partners and lambda for clean and attacked samples.
    """

    robust: ClassVar[bool] = True

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`; `parts` also holds "clean" where `clean_weight` > 0."""
        batch = self.dropped(model, batch, context)
        if self.begins(context):
            return self.mixed(model, batch, context)
        attacked = self.mixed(model, self.perturb(model, batch, context), context, self.chosen(context).names)
        if not self.clean_weight:
            return attacked
        clean = self.mixed(model, batch, context)
        total = (1 - self.clean_weight) * attacked.total + self.clean_weight * clean.total
        return replace(attacked, total=total, parts={**attacked.parts, "clean": clean.total.detach()})
