"""Ordinary training on the samples as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from crossguard.core.batch import Batch
from crossguard.defences.objective import Context, Losses, Objective
from crossguard.defences.supervision import AuxiliaryWeight, check_heads, check_weight, supervise


@dataclass(frozen=True)
class Standard(Objective):
    """Loss of the fused logits plus `auxiliary_weight` (one number, or by modality) x those of the auxiliary heads."""

    auxiliary_weight: AuxiliaryWeight = 1.0
    robust: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_weight(self.auxiliary_weight)

    def check(self, model: nn.Module, context: Context) -> None:
        """See `check_heads`."""
        check_heads(self.auxiliary_weight, model)

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`."""
        return supervise(model, batch, context, self.auxiliary_weight)
