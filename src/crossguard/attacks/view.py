"""The model as a function of its attacked inputs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Mask, Output
from crossguard.core.model import Branched, caller


@dataclass(frozen=True)
class View:
    """What attacked inputs do not touch is computed once: whole branches where the model can run them apart."""

    call: Callable[..., Output]
    branched: Branched | None
    fixed: Inputs
    features: dict[str, Feature]
    mask: Mask

    def logits(self, point: Inputs) -> Tensor:
        """(R, C) logits of rows whose attacked inputs are `point`."""
        if self.branched is None:
            return self.call({**self.fixed, **point}, self.mask).logits
        attacked = {n: self.branched.encode(n, x, self.mask.get(n)) for n, x in point.items()}
        return self.branched.fuse({**self.features, **attacked}).logits


def view(model: nn.Module, inputs: Inputs, mask: Mapping[str, Tensor], attacked: tuple[str, ...]) -> View:
    """A View of `model` at `inputs`; encodes the branches of un-attacked modalities, without gradients."""
    fixed = {n: x for n, x in inputs.items() if n not in attacked}
    branches: tuple[str, ...] = getattr(model, "modalities", ())
    if not isinstance(model, Branched) or not set(attacked) <= set(branches):
        return View(caller(model), None, fixed, {}, dict(mask))
    with torch.no_grad():
        features = {n: model.encode(n, x, mask.get(n)) for n, x in fixed.items() if n in branches}
    kept = {n: mask[n] for n in attacked if n in mask}
    return View(caller(model), model, {}, features, kept)
