"""PGD that also drags attention away: the adaptive attack on defences that hold attention still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.attacks.objective import OBJECTIVES, Goal, Objective
from crossguard.attacks.pgd import pgd
from crossguard.attacks.result import AttackResult
from crossguard.core.batch import Inputs, Output
from crossguard.core.errors import ModelError, ThreatError
from crossguard.core.model import borrowed, forward
from crossguard.core.task import Leading, Task, infer_task
from crossguard.models.attention import Watch, watching
from crossguard.models.maps import Distance, drift
from crossguard.threat import ThreatModel

# Under which name the search carries what a sample was before the attack; no mask is of it.
_BEFORE = "{} before"


def attention_drift(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    weight: float = 1.0,
    distance: Distance = "kl",
    objective: str | Objective = "margin",
    task: Task | None = None,
    **options: Any,
) -> AttackResult:
    """PGD on the objective + `weight` x R, R the mean over layers, heads and real queries of the `distance` from the
    clean attention maps to the attacked ones (our choice; R as in `defences.attention_regularization`).

    The rest is `pgd`'s. A step costs a forward more, without gradient. Raises ModelError for a model that gives no
    attention maps.
    """
    if not 0 <= weight < float("inf"):
        raise ThreatError(f"attention_drift: weight is {weight}, expected a finite number >= 0")
    if isinstance(objective, str) and objective not in OBJECTIVES:
        raise ThreatError(f"unknown objective {objective!r}; known: {sorted(OBJECTIVES)}")
    base = OBJECTIVES[objective] if isinstance(objective, str) else objective
    if task is None:
        with borrowed(model) as net, torch.no_grad():
            task = infer_task(targets, forward(net, inputs, options.get("mask")).logits)

    def climbed(logits: Tensor, goal: Goal) -> Tensor:
        return base(logits[:, :-1], goal) + weight * logits[:, -1]

    carried = {**inputs, **{_BEFORE.format(n): inputs[n] for n in threat.names if n in inputs}}
    found = pgd(Drifting(model, distance), carried, targets, threat, objective=climbed, task=Leading(task), **options)
    return replace(found, inputs={n: found.inputs[n] for n in inputs}, clean=dict(inputs), forwards=2 * found.forwards)


class Drifting(nn.Module):
    """A model whose logits have one more column: how far its attention is from what it was before the attack."""

    def __init__(self, model: nn.Module, distance: Distance) -> None:
        super().__init__()
        self.model = model
        self.distance: Distance = distance

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        carried = {_BEFORE.format(n) for n in inputs}
        now = {n: x for n, x in inputs.items() if n not in carried}
        before = {n: inputs.get(_BEFORE.format(n), x) for n, x in now.items()}
        with torch.no_grad(), watching(Watch()) as watch:
            answer = forward(self.model, before, mask, ("attention",))
        clean = tuple(watch.kept) if watch is not None and watch.kept else answer.attention or ()
        if not clean:
            raise ModelError("attention_drift needs a model that returns attention maps, this one returns none")
        turn, rows = iter(clean), len(answer.logits)

        def apart(a: Tensor) -> Tensor:
            # Some models see a sample as several rows of maps, side by side.
            return drift(next(turn), a, self.distance).reshape(rows, -1).mean(dim=1)

        with watching(Watch(apart)) as watch:
            answer = forward(self.model, now, mask, ("attention",))
        layers = watch.kept if watch is not None and watch.kept else [apart(a) for a in answer.attention or ()]
        moved = torch.stack(layers).mean(dim=0)
        return Output(torch.cat([answer.logits, moved[:, None].to(answer.logits.dtype)], dim=1))
