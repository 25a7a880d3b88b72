"""What an attack hands back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from crossguard.core.batch import Inputs, Mask
from crossguard.threat import ThreatModel


@dataclass(frozen=True)
class Trace:
    """A search step by step: the objective's `loss` (steps, N), the `margin` (steps + 1, N) and, by modality, the
    Euclidean norm of the loss's `gradient` (steps, N), in loss per unit."""

    loss: Tensor
    margin: Tensor
    gradient: dict[str, Tensor]


@dataclass(frozen=True)
class AttackResult:
    """What an attack found: `inputs` (attacked ones new, others as given), by sample `success`, `margin` (> 0 is
    right; towards the target if targeted) and `steps` taken until fooled; sample-`forwards` to the
    logits and -`backwards` paid; the `trace` if it was asked for."""

    inputs: Inputs
    success: Tensor
    margin: Tensor
    steps: Tensor
    forwards: int
    backwards: int
    clean: Inputs
    mask: Mask
    threat: ThreatModel
    trace: Trace | None = None

    @cached_property
    def distance(self) -> dict[str, Tensor]:
        """Modality -> (N,) distance in its budget's norm and unit."""
        return self.threat.distance(self.inputs, self.clean, self.mask)

    @cached_property
    def size(self) -> Tensor:
        """(N,) the largest distance in shares of its budget: how much of the threat model was needed; inf where what
        was found does not fool."""
        shares = [
            share(self.distance[name], budget.radius(self.clean[name], self.mask.get(name)))
            for name, budget in self.threat.budgets.items()
        ]
        size = torch.stack(shares).amax(dim=0) if shares else torch.zeros_like(self.margin)
        return torch.where(self.success | self.margin.isnan(), size, torch.inf)


def share(distance: Tensor, radius: Tensor) -> Tensor:
    """Distances in shares of a budget; no change is none of one without room (SNR of silence)."""
    return distance / radius.clamp_min(torch.finfo(radius.dtype).tiny)
