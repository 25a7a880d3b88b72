"""The rows of a search: a sample and a restart each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossguard.attacks.problem import Problem
from crossguard.attacks.view import View, hastened
from crossguard.core.batch import Inputs, take
from crossguard.core.random import combine, text_key
from crossguard.threat import Ball, ThreatModel
from crossguard.threat.ball import spread


@dataclass
class Rows:
    """The rows that are still searched; every tensor leads with the row axis. A row stands at `point`."""

    index: Tensor
    targets: Tensor
    rival: Tensor | None
    point: Inputs
    balls: dict[str, Ball]
    view: View
    memory: Any

    def shown(self) -> Inputs:
        """What stands for the points before the model: themselves, but where a budget knows codes."""
        return {name: self.balls[name].shown(x) for name, x in self.point.items()}

    def fooled(self, gap: Tensor, width: int, samples: int) -> Tensor:
        """(R,) whether a row, or another one of its sample, fools the model now; `width` rows make a sample."""
        fooled = gap <= 0
        if width == 1:
            return fooled
        sample = self.index // width
        return torch.zeros(samples, dtype=torch.bool, device=fooled.device).index_fill(0, sample[fooled], True)[sample]


def begin(
    problem: Problem, seen: View, keys: Tensor, threat: ThreatModel, alive: Tensor, start: Inputs | None
) -> tuple[Rows, int]:
    """The rows at their starting points, and how many of them a sample has."""
    plan, inputs, targets, mask = problem.plan, problem.inputs, problem.targets, problem.mask
    aims = 1 if problem.rivals is None else problem.rivals.shape[1]
    width = plan.restarts * aims
    whole = alive.numel() == targets.shape[0] and width == 1
    origin = alive.repeat_interleave(width)
    turn = torch.arange(width, device=alive.device).repeat(alive.numel())
    rowed: Callable[[Any], Any] = (lambda tree: tree) if whole else (lambda tree: take(tree, origin))
    key = combine(rowed(keys), turn)
    balls = threat.balls({n: rowed(inputs[n]) for n in threat.names}, {n: rowed(m) for n, m in mask.items()})
    point: Inputs = {}
    for name, ball in balls.items():
        if start is None or width > aims:
            point[name] = plan.start(ball, combine(key, text_key(name)))
        if start is not None:
            first = ball.project(rowed(start[name].detach()))
            point[name] = torch.where(spread(turn < aims, first), first, point[name]) if width > aims else first
    point = threat.couple(point, balls)
    rival = None if problem.rivals is None else problem.rivals[origin, turn % aims]
    index = torch.arange(origin.numel(), device=origin.device)
    fast = hastened(rowed(seen), problem.precision, problem.compiled)
    memory = plan.step.begin(point, balls, key)
    return Rows(index, rowed(targets), rival, point, balls, fast, memory), width
