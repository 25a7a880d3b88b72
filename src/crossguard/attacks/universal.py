"""Universal perturbations: one a modality, the same for every sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.attacks.objective import Objective
from crossguard.attacks.perturbation import Perturbation
from crossguard.attacks.plan import Plan
from crossguard.attacks.search import search
from crossguard.attacks.start import clean
from crossguard.attacks.step import Steepest
from crossguard.attacks.unfinished import Unfinished
from crossguard.core.batch import Batch, Inputs, expand_mask
from crossguard.core.errors import InputError, ThreatError
from crossguard.core.modality import Modality
from crossguard.core.task import Task
from crossguard.threat import Ball, Budget, ThreatModel
from crossguard.threat.constraints import Frames, JointWeights, Still


@dataclass
class Together:
    """A step rule that moves what all rows share, `found`, along the sum of their gradients; the rows stay."""

    found: Perturbation
    own: ThreatModel
    step_size: float
    gradient: ClassVar[bool] = True
    loss: ClassVar[bool] = False

    def begin(self, point: Inputs, balls: Mapping[str, Ball], key: Tensor) -> None:
        return None

    def move(
        self, memory: None, point: Inputs, gradient: Inputs, loss: Tensor, balls: Mapping[str, Ball], step: int
    ) -> tuple[Inputs, None]:
        shared = {n: v[None] for n, v in self.found.values.items()}
        total: Inputs = {}
        for name, g in gradient.items():
            ball = balls[name]
            wanted = ball.x + self.found.fitted(name, ball.x)
            low, high = self.found.threat.budgets[name].bounds or (-torch.inf, torch.inf)
            # A sample does not feel what its bounds hold back, nor what it has masked out.
            felt = (wanted >= low) & (wanted <= high)
            felt = felt if ball.mask is None else felt & expand_mask(ball.mask, ball.x)
            total[name] = torch.nan_to_num(g).where(felt, torch.zeros_like(g)).sum(dim=0, keepdim=True)
            if name in self.found.time:
                total[name] = _folded(total[name], self.found.time[name], shared[name])
        around = self.own.balls({n: torch.zeros_like(v) for n, v in shared.items()})
        total = self.own.led(shared, around, total)
        moved = {n: around[n].ascend(v, total[n].to(v), self.step_size) for n, v in shared.items()}
        values = {n: v[0] for n, v in self.own.couple(moved, around, total).items()}
        self.found = replace(self.found, values=values)
        return point, None


def _folded(total: Tensor, axis: int, v: Tensor) -> Tensor:
    """The sum over the repetitions of `v` along `axis`."""
    length = v.shape[axis]
    last = total.movedim(axis, -1)
    last = F.pad(last, (0, -last.shape[-1] % length))
    return last.unflatten(-1, (-1, length)).sum(dim=-2).movedim(-1, axis)


def universal(
    model: nn.Module,
    loader: Iterable[Batch],
    threat: ThreatModel,
    *,
    epochs: int = 5,
    step_size: float = 0.1,
    objective: str | Objective = "cross_entropy",
    clamp: float = 9.0,
    task: Task | None = None,
    modalities: Mapping[str, Modality] | None = None,
    length: Mapping[str, int] | None = None,
    seed: int = 0,
    state: str | Path | None = None,
    save_every: int = 50,
) -> Perturbation:
    """One perturbation a modality (Moosavi-Dezfooli et al., CVPR 2017) that raises the objective over a whole set.

    Projected steepest ascent on the mean of min(objective, `clamp`), a step a batch (Shafahi et al., AAAI 2020): no
    sample that is lost already outweighs the others. A sample is climbed from where the perturbation, projected into
    its budgets, bounds and mask, puts it. It starts at 0, and steps fall from `step_size` x budget linearly by epoch
    (our choice): together they must be able to cross the budget, so give few batches more epochs or larger steps.
    Judge it on samples that it was not fitted on: `Perturbation.attack`.

    `modalities` (of the loader's data set if not given) say which axis is time, along which samples may differ in
    length; `length` is the perturbation's own in steps (that of the first batch if not given), repeated over longer
    samples. `state`: a file in which what is found is kept every `save_every` batches and at the end; given again with
    the same model and loader it goes on there, to the same bits (the batches before are read, not run). Raises RunError
    for a state of another search, ThreatError for what no one perturbation can do, InputError for a loader without
    samples or for shapes that differ, ModelError where there is no gradient.
    """
    _check(threat, epochs, clamp)
    known = modalities if modalities is not None else getattr(getattr(loader, "dataset", None), "modalities", {})
    axes = {n: known[n].axis("T") for n in threat.names if n in known}
    time = {n: axis for n, axis in axes.items() if axis is not None}
    climbed = Plan(objective, Steepest(step_size), clean, steps=0).climbed

    def clamped(logits: Tensor, *goal: Any) -> Tensor:
        return climbed(logits, *goal).clamp(max=clamp)

    parameter = next(model.parameters(), None)
    asked = {"epochs": epochs, "step_size": step_size, "clamp": clamp, "seed": seed, "length": dict(length or {})}
    asked |= {"objective": getattr(objective, "__qualname__", str(objective)), "threat": threat.to_dict()}
    kept = Unfinished(state, asked)
    rule: Together | None = None
    turn = 0
    for epoch in range(epochs):
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        before = turn
        for batch in loader:
            if rule is not None and turn < kept.turn:
                turn += 1
                continue
            batch = batch if parameter is None else batch.to(parameter.device)
            if rule is None:
                own = _own(threat)
                nothing = _nothing(batch, threat, own, time, length or {})
                rule = Together(kept.resumed(nothing), own, step_size)
                if turn < kept.turn:
                    turn += 1
                    continue
            rule.step_size = step_size * (1 - epoch / epochs)
            search(
                Plan(clamped, rule, clean, steps=1),
                model,
                batch.inputs,
                batch.targets,
                threat,
                task=task,
                mask=batch.mask,
                seed=seed + turn,
                stop="never",
                select="last",
                start=rule.found.apply(batch.inputs, batch.mask),
            )
            turn += 1
            if turn % save_every == 0:
                kept.save(rule.found, turn)
        if turn == before:
            raise InputError(
                f"the loader yields no batch in epoch {epoch}; give one that can be gone through {epochs} times"
            )
    assert rule is not None
    kept.save(rule.found, turn)
    return rule.found


def _check(threat: ThreatModel, epochs: int, clamp: float) -> None:
    if epochs < 1 or not math.isfinite(clamp):
        raise ThreatError(f"a universal perturbation needs epochs >= 1 and a finite clamp, found {epochs} and {clamp}")
    if threat.at_most is not None and threat.at_most < len(threat.names):
        raise ThreatError(
            f"at_most={threat.at_most} lets every sample choose its modalities, a universal perturbation cannot; "
            f"choose at most {threat.at_most} for all samples: threat.only(…)"
        )


def _own(threat: ThreatModel) -> ThreatModel:
    """What holds of a change alone: bounds as wide as theirs around 0, and constraints on where it may be; what a
    constraint says of the sample changed (bones, codes) is left to each sample's own projection."""
    budgets: dict[str, Budget] = {}
    for name, budget in threat.budgets.items():
        width = 0.0 if budget.bounds is None else budget.bounds[1] - budget.bounds[0]
        places = tuple(c for c in budget.constraints if isinstance(c, Still | JointWeights | Frames))
        budgets[name] = replace(budget, bounds=(-width, width) if width else None, constraints=places)
    return ThreatModel(budgets, frames=threat.frames)


def _nothing(
    batch: Batch, threat: ThreatModel, own: ThreatModel, time: Mapping[str, int], length: Mapping[str, int]
) -> Perturbation:
    """Zeros in the shape of one sample, along time as long as asked for."""
    for name, steps in length.items():
        if name not in time or steps < 1:
            raise InputError(
                f"length of {name!r} is {steps}, expected >= 1 of an attacked modality with a time axis; these are "
                f"{sorted(time)}, by modalities="
            )
    threat.check(batch.inputs, batch.mask)
    values: Inputs = {}
    for name in threat.names:
        shape = list(batch.inputs[name].shape[1:])
        if name in length:
            shape[time[name] - 1] = length[name]
        values[name] = batch.inputs[name].new_zeros(shape)
    for name, v in values.items():
        if not bool((own.budgets[name].radius(v[None]) > 0).all()):
            raise ThreatError(
                f"modality {name!r}: {threat.budgets[name]!r} depends on the sample, so it bounds no perturbation that "
                f"is the same for all; give a budget in the modality's unit"
            )
    return Perturbation(values, threat, time)
