"""Samples whose attack is under suspicion, with all that attacks on them are told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.attacks import AttackResult, apgd
from crossguard.core import Task, expand_mask, forward, present
from crossguard.core.batch import Inputs, Mask, take
from crossguard.core.random import combine, text_key
from crossguard.diagnostics.failures.remedies import redrawn, treat
from crossguard.threat import ThreatModel


@dataclass(frozen=True)
class Study:
    """Samples that are right when clean; `keys` (N,) stand for their ids; `random` says that the model is."""

    net: nn.Module
    inputs: Inputs
    targets: Tensor
    mask: Mask
    keys: Tensor
    threat: ThreatModel
    task: Task
    seed: int
    steps: int
    random: bool = False
    gains: dict[Any, int] = field(default_factory=dict[Any, int])

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: Tensor) -> Study:
        """The samples at `rows`."""
        inputs, targets, mask, keys = take((self.inputs, self.targets, self.mask, self.keys), rows)
        return replace(self, inputs=inputs, targets=targets, mask=mask, keys=keys, gains={})

    def only(self, *names: str) -> Study:
        """The attack on these modalities, on samples in which one of them is there."""
        study = self if names == self.threat.names else replace(self, threat=self.threat.only(*names), gains={})
        there = [present(self.mask, m, len(self)) for m in names]
        if not there or any(m is None for m in there):
            return study
        return study.at(torch.stack([m for m in there if m is not None]).any(dim=0).nonzero().squeeze(1))

    @property
    def options(self) -> dict[str, Any]:
        """What every attack is told."""
        return {"task": self.task, "mask": self.mask, "ids": self.keys, "seed": self.seed}

    def margin(self, inputs: Inputs) -> Tensor:
        """(N,) how far the model is from wrong."""
        return self.task.margin(forward(self.net, inputs, self.mask).logits, self.targets)

    def slopes(self) -> tuple[Tensor, dict[str, Tensor | None]]:
        """(N,) margins at the samples, and their gradients by attacked modality; None where autograd finds no way."""
        names = self.threat.names
        leaves = {m: self.inputs[m].detach().clone().requires_grad_() for m in names}
        margin = self.margin({**self.inputs, **leaves})
        found: dict[str, Tensor | None] = dict.fromkeys(names)
        if margin.requires_grad:
            taken = torch.autograd.grad(margin.sum(), list(leaves.values()), allow_unused=True)
            found.update(zip(names, taken, strict=True))
        for m, g in found.items():
            if g is not None and m in self.mask:
                found[m] = torch.where(expand_mask(self.mask[m], g), g, 0.0)
        return margin.detach(), found

    def matters(self, name: str) -> bool:
        """Whether noise of many times the budget in one modality changes what the model says."""
        budget = self.threat.budgets[name].scaled(1024)
        noisy = budget.around(self.inputs[name], self.mask.get(name)).uniform(combine(self.keys, text_key(name)))
        with torch.no_grad():
            return not torch.equal(self.margin({**self.inputs, name: noisy}), self.margin(self.inputs))

    def climb(self, objective: str, **options: Any) -> AttackResult:
        """APGD to its last step; with a trace where there is one attack to trace."""
        traced = len(self.threat.subsets()) == 1
        return apgd(
            self.net, self.inputs, self.targets, self.threat, objective=objective, steps=self.steps, stop="never",
            trace=traced, **self.options, **options,
        )  # fmt: skip

    def fooled(self, result: AttackResult) -> Tensor:
        """(N,) which samples an attack has fooled; a random model, in the mean of fresh draws."""
        if not self.random:
            return result.success
        return redrawn(self.net, self.inputs, self.targets, self.threat, result, **self.options).success

    def gain(self, remedy: str, withstood: Tensor) -> int:
        """How many of the samples that `withstood` fall to a remedy; found out once for each."""
        known = (remedy, withstood.cpu().numpy().tobytes())
        if known not in self.gains:
            left = self.at(withstood.nonzero().squeeze(1))
            args = self.net, left.inputs, left.targets, self.threat
            options = left.options | {"steps": self.steps}
            result = treat(remedy, *args, random=self.random, **options) if len(left) else None
            self.gains[known] = 0 if result is None else int(result.success.sum())
        return self.gains[known]
