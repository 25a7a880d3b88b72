"""The one search loop that every attack runs on.

An attack is a `Plan`: an objective to climb, a step rule, a start, how many steps and restarts. The loop owes its
caller: gradients of attacked inputs only, each branch that is not attacked run once, restarts as rows of one batch,
fooled samples gone from the batch, random starts that are a function of the sample, and the model as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from crossguard.attacks.arguments import check_arguments
from crossguard.attacks.objective import OBJECTIVES, Objective
from crossguard.attacks.start import Start
from crossguard.attacks.step import StepRule
from crossguard.attacks.view import View, view
from crossguard.core.batch import Inputs, Mask, take
from crossguard.core.errors import ModelError, ThreatError
from crossguard.core.model import borrowed, forward
from crossguard.core.random import combine, sample_keys, text_key
from crossguard.core.task import Task, infer_task
from crossguard.threat import Ball, ThreatModel
from crossguard.threat.budget import spread


@dataclass(frozen=True)
class Plan:
    """What an attack is: its objective (a name or a function), step rule, start, steps and restarts."""

    objective: str | Objective
    step: StepRule
    start: Start
    steps: int
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1:
            raise ThreatError(f"an attack needs steps >= 0 and restarts >= 1, found {self.steps} and {self.restarts}")
        if isinstance(self.objective, str) and self.objective not in OBJECTIVES:
            raise ThreatError(f"unknown objective {self.objective!r}; known: {sorted(OBJECTIVES)}")

    @property
    def climbed(self) -> Objective:
        """The objective as a function."""
        return OBJECTIVES[self.objective] if isinstance(self.objective, str) else self.objective


@dataclass(frozen=True)
class AttackResult:
    """What an attack found: `inputs` (attacked ones new, others as given), by sample `success`, `margin` (> 0 is
    right; towards the target if targeted) and `steps` taken until fooled; sample-`forwards` to the
    logits and -`backwards` paid."""

    inputs: Inputs
    success: Tensor
    margin: Tensor
    steps: Tensor
    forwards: int
    backwards: int
    clean: Inputs
    mask: Mask
    threat: ThreatModel

    @cached_property
    def distance(self) -> dict[str, Tensor]:
        """Modality -> (N,) distance in its budget's norm and unit."""
        return self.threat.distance(self.inputs, self.clean, self.mask)


@dataclass
class _Rows:
    """The rows (a sample and a restart each) that are still searched; every tensor leads with the row axis."""

    index: Tensor
    targets: Tensor
    point: Inputs
    best: Inputs
    margin: Tensor
    balls: dict[str, Ball]
    view: View
    memory: Any

    def remember(self, gap: Tensor) -> None:
        """Keep the point of lowest margin so far; a margin of NaN never wins."""
        better = gap < self.margin
        self.margin = torch.fmin(gap, self.margin)
        self.best = {n: torch.where(spread(better, x), x, self.best[n]) for n, x in self.point.items()}


@dataclass
class _Problem:
    """What stays the same over the whole search, and the work that it has cost."""

    plan: Plan
    task: Task | None
    targeted: bool
    stop: bool
    examine: bool
    forwards: int = 0
    backwards: int = 0

    def meet(self, logits: Tensor, targets: Tensor) -> None:
        """Check the first logits; settle the task where it follows from the targets."""
        if logits.dim() != 2:
            raise ModelError(f"model returned logits of shape {tuple(logits.shape)}, expected (N, classes)")
        if self.task is None:
            self.task = infer_task(targets, logits)
            self.task.check(targets)
        self.task.check_logits(logits, targets.shape[0])

    def gap(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(R,) how far each row is from success: success is <= 0."""
        assert self.task is not None
        gap = self.task.margin(logits, targets)
        return -gap if self.targeted else gap

    def examined(self, net: nn.Module, inputs: Inputs, mask: Mask, targets: Tensor) -> Tensor:
        """(N,) the gap of whole inputs, by a plain forward pass."""
        with torch.no_grad():
            logits = forward(net, inputs, mask).logits
        self.forwards += targets.shape[0]
        self.meet(logits, targets)
        return self.gap(logits, targets)


def search(
    plan: Plan,
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    task: Task | None = None,
    mask: Mapping[str, Tensor] | None = None,
    ids: Sequence[str | int] | Tensor | None = None,
    seed: int = 0,
    stop: Literal["success", "never"] = "success",
    select: Literal["best", "last"] = "best",
    targeted: bool = False,
    start: Inputs | None = None,
) -> AttackResult:
    """Run `plan` on `model` within `threat`.

    `task` follows from the targets' shape if not given. `stop="success"`: a fooled sample leaves the batch; "never":
    all rows take all steps. `select="best"`: the point of lowest margin, the last one included, confirmed by a
    forward pass on what is returned; "last": the last point, unexamined (`margin` NaN), for inner loops of training.
    `start`: a point to climb from in the first restart. `targeted`: `targets` is what the model shall say.
    Raises InputError, ThreatError or ModelError before the first step for input that cannot be meant.
    """
    device = targets.device
    names = threat.names
    check_arguments(inputs, targets, threat, mask, ids, task)
    problem = _Problem(plan, task, targeted, stop == "success", select == "best")
    with borrowed(model, seed, device) as net:
        given = {n: _plain(x) for n, x in inputs.items()}
        targets = _plain(targets)
        masks = {n: _plain(m) for n, m in (mask or {}).items()}
        keys = combine(sample_keys(ids, given), seed)
        found = {name: given[name] for name in names}
        margin = torch.full((targets.shape[0],), torch.inf, device=device, dtype=_dtype(given))
        steps = torch.full_like(margin, plan.steps, dtype=torch.int64)
        alive = torch.arange(targets.shape[0], device=device)
        if problem.stop or not names:
            margin = problem.examined(net, given, masks, targets).to(margin.dtype)
            steps = torch.where(margin > 0, steps, 0)
            alive = _where(margin > 0) if names else alive[:0]
        for subset in threat.subsets():
            if not alive.numel():
                break
            point, low, taken = _climb(problem, net, given, targets, masks, keys, subset, alive, start)
            better = low < margin[alive] if problem.examine else torch.ones_like(low, dtype=torch.bool)
            for name in names:
                old = found[name].index_select(0, alive)
                new = point.get(name, given[name].index_select(0, alive))
                found[name] = found[name].index_copy(0, alive, torch.where(spread(better, old), new, old))
            steps = steps.index_copy(0, alive, torch.where(better, taken, steps[alive]))
            margin = margin.index_copy(0, alive, torch.where(better, low, margin[alive]))
            if problem.stop:
                alive = alive.index_select(0, _where(margin[alive] > 0))
        if not problem.examine:
            margin = torch.full_like(margin, torch.nan)
        elif names:
            margin = problem.examined(net, {**given, **found}, masks, targets)
    result = {**inputs, **{name: x.detach() for name, x in found.items()}}
    said = -margin if targeted else margin
    return AttackResult(
        result, margin <= 0, said, steps, problem.forwards, problem.backwards, dict(inputs), masks, threat
    )


def _climb(
    problem: _Problem,
    net: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    mask: Mask,
    keys: Tensor,
    threat: ThreatModel,
    alive: Tensor,
    start: Inputs | None,
) -> tuple[Inputs, Tensor, Tensor]:
    """Search the samples `alive`; returns by sample the best point, its margin and the steps it took."""
    plan = problem.plan
    climbed, follows = plan.climbed, plan.step.gradient
    rows = _begin(plan, view(net, inputs, mask, threat.names), inputs, targets, mask, keys, threat, alive, start)
    best, margin, taken = rows.best, rows.margin, torch.full_like(rows.index, plan.steps)
    for step in range(plan.steps):
        leaves = {n: x.detach().requires_grad_(follows) for n, x in rows.point.items()}
        with torch.set_grad_enabled(follows):
            logits = rows.view.logits(leaves)
        problem.forwards += rows.index.numel()
        if step == 0:
            problem.meet(logits, rows.targets)
        stay: Tensor | None = None
        if problem.examine:
            rows.remember(problem.gap(logits.detach(), rows.targets))
        if problem.stop:
            fooled = _fooled(rows, plan.restarts, alive.numel())
            stay, left = _where(~fooled), _where(fooled)
            if left.numel():
                out = rows.index.index_select(0, left)
                best = {n: b.index_copy(0, out, rows.best[n].index_select(0, left)) for n, b in best.items()}
                margin = margin.index_copy(0, out, rows.margin.index_select(0, left))
                taken = taken.index_fill(0, out, step)
                if not stay.numel():
                    break
            else:
                stay = None
        assert problem.task is not None
        loss = climbed(logits, rows.targets, problem.task, problem.targeted)
        gradient = _gradient(loss, leaves, check=step == 0) if follows else {}
        problem.backwards += rows.index.numel() if follows else 0
        if stay is not None:
            rows, gradient, loss = take(rows, stay), take(gradient, stay), loss.index_select(0, stay)
        rows.point, rows.memory = plan.step.move(rows.memory, rows.point, gradient, loss.detach(), rows.balls, step)
    else:
        if problem.examine:
            with torch.no_grad():
                logits = rows.view.logits(rows.point)
            problem.forwards += rows.index.numel()
            problem.meet(logits, rows.targets)
            rows.remember(problem.gap(logits, rows.targets))
        kept = rows.best if problem.examine else rows.point
        best = {n: b.index_copy(0, rows.index, kept[n]) for n, b in best.items()}
        margin = margin.index_copy(0, rows.index, rows.margin)
    if plan.restarts == 1:
        return best, margin, taken
    chosen = margin.view(-1, plan.restarts).argmin(dim=1)
    chosen = chosen + torch.arange(alive.numel(), device=alive.device) * plan.restarts
    return take(best, chosen), margin[chosen], taken[chosen]


def _fooled(rows: _Rows, restarts: int, samples: int) -> Tensor:
    """(R,) whether a row, or another restart of its sample, has fooled the model."""
    fooled = rows.margin <= 0
    if restarts == 1:
        return fooled
    sample = rows.index // restarts
    return torch.zeros(samples, dtype=torch.bool, device=fooled.device).index_fill(0, sample[fooled], True)[sample]


def _begin(
    plan: Plan,
    seen: View,
    inputs: Inputs,
    targets: Tensor,
    mask: Mask,
    keys: Tensor,
    threat: ThreatModel,
    alive: Tensor,
    start: Inputs | None,
) -> _Rows:
    """The rows at their starting points."""
    whole = alive.numel() == targets.shape[0] and plan.restarts == 1
    origin = alive.repeat_interleave(plan.restarts)
    restart = torch.arange(plan.restarts, device=alive.device).repeat(alive.numel())
    rowed = (lambda tree: tree) if whole else (lambda tree: take(tree, origin))
    key = combine(rowed(keys), restart)
    balls: dict[str, Ball] = {}
    point: Inputs = {}
    for name, budget in threat.budgets.items():
        ball = budget.around(rowed(inputs[name]), rowed(mask.get(name)))
        point[name] = plan.start(ball, combine(key, text_key(name)))
        if start is not None:
            first = ball.project(rowed(start[name].detach()))
            point[name] = torch.where(spread(restart == 0, first), first, point[name])
        balls[name] = ball
    index = torch.arange(origin.numel(), device=origin.device)
    margin = torch.full((origin.numel(),), torch.inf, device=origin.device, dtype=_dtype(inputs))
    return _Rows(index, rowed(targets), point, point, margin, balls, rowed(seen), plan.step.begin(point, balls, key))


def _gradient(loss: Tensor, leaves: Inputs, check: bool) -> Inputs:
    """Gradients of attacked inputs alone; raises ModelError where an input has none."""
    if check and not loss.requires_grad:
        raise ModelError(
            f"the model yields no gradient for {list(leaves)}: its output does not depend on them differentiably"
        )
    found = torch.autograd.grad(loss, list(leaves.values()), torch.ones_like(loss), allow_unused=True)
    gradient = dict(zip(leaves, found, strict=True))
    if check:
        for name, g in cast("dict[str, Tensor | None]", gradient).items():
            if g is None:
                raise ModelError(
                    f"the model yields no gradient for {name!r}: it ignores this input or detaches it; "
                    f"leave it out of the threat model, or attack through a differentiable stand-in"
                )
    return gradient


def _plain(x: Tensor) -> Tensor:
    """Detached; a copy where the tensor was made under inference mode, which autograd cannot use."""
    return x.clone() if x.is_inference() else x.detach()


def _dtype(inputs: Inputs) -> torch.dtype:
    """Margins are kept as exactly as the inputs are."""
    return torch.float64 if any(x.dtype == torch.float64 for x in inputs.values()) else torch.float32


def _where(flags: Tensor) -> Tensor:
    return flags.nonzero().squeeze(1)
