"""The whole training loss, seen by an attack that knows only of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Need, Output
from crossguard.core.errors import ModelError
from crossguard.core.model import Branched, forward
from crossguard.core.task import Leading
from crossguard.defences.supervision import AuxiliaryWeight, weight_of


class Stacked(nn.Module):
    """A model whose logits are the fused ones and then each auxiliary head's: an attack sees only logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.heads: tuple[str, ...] = ()
        # Empty where branches cannot be run apart, so that the search calls `forward`.
        self.modalities: tuple[str, ...] = getattr(model, "modalities", ()) if isinstance(model, Branched) else ()

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        return self._stack(forward(self.model, inputs, mask, ("auxiliary",)))

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        assert isinstance(self.model, Branched)
        return self.model.encode(name, x, mask)

    def fuse(self, features: dict[str, Feature], need: Sequence[Need] = ()) -> Output:
        assert isinstance(self.model, Branched)
        return self._stack(self.model.fuse(features, ("auxiliary",)))

    def _stack(self, output: Output) -> Output:
        if output.auxiliary is None:
            raise ModelError("inner='total' needs a model with auxiliary heads, this one returns none; say 'fused'")
        self.heads = tuple(output.auxiliary)
        return Output(torch.cat([output.logits, *output.auxiliary.values()], dim=1))


@dataclass(frozen=True)
class StackedTask(Leading):
    """The task of a Stacked model: its loss is the whole training loss, its answer the fused logits."""

    weight: AuxiliaryWeight
    net: Stacked

    def check_logits(self, logits: Tensor, samples: int) -> None:
        """See `SingleLabel.check_logits`; of the fused and of each auxiliary head's logits."""
        for part in self._parts(logits):
            self.task.check_logits(part, samples)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) loss(fused) + sum_m lambda_m loss(auxiliary head of m)."""
        fused, *rest = self._parts(logits)
        loss = self.task.loss(fused, targets)
        for name, guess in zip(self.net.heads, rest, strict=True):
            loss = loss + weight_of(self.weight, name) * self.task.loss(guess, targets)
        return loss

    def slope(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N, all logits) the gradient of `loss`."""
        fused, *rest = (self.task.slope(part, targets) for part in self._parts(logits))
        return torch.cat(
            [fused, *(weight_of(self.weight, n) * s for n, s in zip(self.net.heads, rest, strict=True))], 1
        )

    def _parts(self, logits: Tensor) -> tuple[Tensor, ...]:
        return logits.split(self.classes, dim=1)
