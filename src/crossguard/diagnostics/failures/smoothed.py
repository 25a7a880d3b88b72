"""Gradients averaged over a neighbourhood: a way down for functions that are rough at every point."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossguard.core.batch import Inputs, Output, take
from crossguard.core.errors import ModelError
from crossguard.core.model import bare, forward
from crossguard.core.random import combine, sample_keys, text_key
from crossguard.threat import ThreatModel


class Smoothed(nn.Module):
    """`model`, the same logits to the bit, with gradients averaged over `draws` random points around the input.

    A point is drawn from `threat`'s budgets, scaled by `share`, so that each modality is smoothed in its own unit
    (our choice; SmoothGrad and the attacks on k-winners-take-all of Tramer et al., NeurIPS 2020, use a Gaussian). The
    draws are a function of the input alone.
    """

    def __init__(self, model: nn.Module, threat: ThreatModel, *, draws: int = 16, share: float = 0.25) -> None:
        super().__init__()
        if draws < 1 or share <= 0:
            raise ModelError(f"Smoothed needs draws >= 1 and share > 0, found {draws} and {share}")
        self.viewed = bare(model)
        self.threat, self.draws = threat.scaled(share), draws

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        """The model's logits at the inputs."""
        with torch.no_grad():
            value = forward(self.viewed, inputs, mask).logits
        if not torch.is_grad_enabled():
            return Output(value)
        rows = torch.arange(value.shape[0], device=value.device).repeat_interleave(self.draws)
        turn = torch.arange(self.draws, device=value.device).repeat(value.shape[0])
        key = combine(take(sample_keys(None, inputs), rows), turn)
        around, masks = take(inputs, rows), take(dict(mask or {}), rows)
        for name, budget in self.threat.budgets.items():
            ball = budget.around(around[name].detach(), masks.get(name))
            around[name] = around[name] + (ball.uniform(combine(key, text_key(name))) - ball.x)
        near = forward(self.viewed, around, masks).logits.unflatten(0, (-1, self.draws)).mean(dim=1)
        return Output(value + (near - near.detach()))
