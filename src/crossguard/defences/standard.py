"""Ordinary training on the samples as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from crossguard.core.batch import Batch
from crossguard.defences.objective import Context, Losses
from crossguard.defences.supervision import Supervised


@dataclass(frozen=True, kw_only=True)
class Standard(Supervised):
    """The losses of `Supervised` on clean samples."""

    robust: ClassVar[bool] = False

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """See `Objective.step`."""
        return self.supervise(model, self.dropped(model, batch, context), context)
