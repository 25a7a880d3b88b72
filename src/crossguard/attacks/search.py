"""The one search loop that every attack runs on.

An attack is a `Plan`: an objective to climb, a step rule, a start, how many steps and restarts. The loop owes its
caller: gradients of attacked inputs only, each branch that is not attacked run once, restarts as rows of one batch,
fooled samples gone from the batch, random starts that are a function of the sample, and the model as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossguard.attacks.arguments import check_arguments
from crossguard.attacks.best import Best
from crossguard.attacks.objective import SLOPES, Goal
from crossguard.attacks.plan import Plan
from crossguard.attacks.problem import Notes, Problem
from crossguard.attacks.result import AttackResult
from crossguard.attacks.rows import Rows, begin
from crossguard.attacks.view import View, view
from crossguard.core.batch import Inputs, Mask, present, take
from crossguard.core.errors import ModelError, ThreatError
from crossguard.core.model import borrowed
from crossguard.core.random import combine, sample_keys
from crossguard.core.task import Task
from crossguard.threat import ThreatModel
from crossguard.threat.ball import spread


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
    precision: torch.dtype | None = None,
    compiled: bool = False,
    trace: bool = False,
) -> AttackResult:
    """Run `plan` on `model` within `threat`.

    `task` follows from the targets' shape if not given. `stop="success"`: a fooled sample leaves the batch; "never":
    all rows take all steps. `select="best"`: the point of lowest margin, the last one included, confirmed in float32
    and inside the budgets on what is returned; "last": the last point, unexamined (`margin` NaN), for inner loops of
    training. `start`: a point to climb from in the first restart. `targeted`: `targets` is what the model shall say.
    `precision=torch.bfloat16` and `compiled=True` make the steps faster, on GPUs above all; what they believed fooled
    and float32 does not confirm is searched again in float32, and what cannot be compiled runs as it is, with a
    warning. `trace`: keep loss, margin and gradient norms of every step (needs stop="never" and one row a sample).
    Raises InputError, ThreatError or ModelError before the first step for input that cannot be meant.
    """
    check_arguments(inputs, targets, threat, mask, ids, task, start)
    if stop not in ("success", "never") or select not in ("best", "last"):
        raise ThreatError(
            f"found stop {stop!r} and select {select!r}, expected 'success' or 'never', and 'best' or 'last'"
        )
    if trace and (stop != "never" or plan.restarts > 1 or len(plan.rivals) > 1 or len(threat.subsets()) > 1):
        raise ThreatError('a trace needs stop="never", one restart, one rival at most and no at_most')
    if select == "last" and (plan.restarts > 1 or len(plan.rivals) > 1):
        raise ThreatError(
            f'select="last" looks at no point, so it cannot choose among {plan.restarts} restarts and '
            f'{len(plan.rivals)} rivals; expected one restart and one rival at most, or select="best"'
        )
    if select == "last" and len(threat.subsets()) > 1:
        raise ThreatError(
            f'select="last" looks at no point, so it cannot choose which {threat.at_most} of {len(threat.names)} '
            f'modalities a sample is attacked on; choose them: threat.only(…), or select="best"'
        )
    if targeted and plan.rivals:
        raise ThreatError(
            "targeted=True beside rivals, which aim away from `targets` at wrong classes; expected one of them: apgd "
            "and pgd follow a target"
        )
    if plan.score is not None and stop != "never":
        raise ThreatError('an attack with a score of its own needs stop="never": the first success is not its best')
    given_threat, threat = threat, threat.settled(inputs)
    with borrowed(model, seed, targets.device) as net:
        given, targets = {n: _plain(x) for n, x in inputs.items()}, _plain(targets)
        masks = {n: _plain(m) for n, m in (mask or {}).items()}
        problem = Problem(
            plan, given, targets, masks, task, targeted,
            # Of points that nobody looks at none is a success: who asks for the last ones gets all of them.
            stop == "success" and select == "best", select == "best", precision, compiled, trace,
        )  # fmt: skip
        keys = combine(sample_keys(ids, given), seed)
        try:
            found, margin, steps, success = _run(problem, net, keys, threat, start)
        except Exception as error:  # the compiler's own are of many kinds; what is not its fault is raised again below
            if not compiled:
                raise
            warnings.warn(f"the compiled attack failed ({type(error).__name__}), it runs uncompiled", stacklevel=2)
            problem = replace(problem, compiled=False, forwards=0, backwards=0)
            found, margin, steps, success = _run(problem, net, keys, threat, start)
    said = -margin if targeted else margin
    notes = problem.trace.done() if problem.trace else None
    result = {**inputs, **{name: x.detach() for name, x in found.items()}}
    return AttackResult(
        result, success, said, steps, problem.forwards, problem.backwards, dict(inputs), masks, given_threat, notes
    )


def _run(
    problem: Problem, net: nn.Module, keys: Tensor, threat: ThreatModel, start: Inputs | None
) -> tuple[Inputs, Tensor, Tensor, Tensor]:
    """All subsets of modalities in turn, survivors only; by sample the point, its margin, steps and success."""
    names, given, targets, masks = threat.names, problem.inputs, problem.targets, problem.mask
    found = {name: given[name] for name in names}
    score = torch.full((targets.shape[0],), torch.inf, device=targets.device, dtype=problem.dtype)
    margin, steps = score, torch.full_like(score, problem.plan.steps, dtype=torch.int64)
    alive = torch.arange(targets.shape[0], device=targets.device)
    seen = view(net, given, masks, names, problem.examine)
    problem.forwards += seen.spent
    if problem.stop or problem.plan.rivals or not names:
        logits = problem.look(seen, found or given)
        if problem.plan.rivals:
            problem.aim(logits)
        if problem.stop or not names:
            score = margin = problem.gap(logits, targets).to(margin.dtype)
            steps = torch.where(margin > 0, steps, 0)
            alive = _where(margin > 0) if names else alive[:0]
    for subset in threat.subsets():
        if not alive.numel():
            break
        apart = seen
        if subset.names != names:
            apart = view(net, given, masks, subset.names, problem.examine)
            problem.forwards += apart.spent
        point, low, gap, taken = _climb(problem, apart, keys, subset, alive, start)
        better = low < score[alive] if problem.examine else torch.ones_like(low, dtype=torch.bool)
        for name in names:
            old = found[name].index_select(0, alive)
            new = point.get(name, given[name].index_select(0, alive))
            found[name] = found[name].index_copy(0, alive, torch.where(spread(better, old), new, old))
        steps = steps.index_copy(0, alive, torch.where(better, taken, steps[alive]))
        margin = margin.index_copy(0, alive, torch.where(better, gap, margin[alive]))
        score = score.index_copy(0, alive, torch.where(better, low, score[alive]))
        if problem.stop:
            alive = alive.index_select(0, _where(margin[alive] > 0))
    if not problem.examine:
        unknown = torch.full_like(margin, torch.nan)
        return found, unknown, steps, unknown <= 0
    if names:
        balls = threat.balls(given, masks)
        found = threat.repair(found, balls)
        believed, margin = margin <= 0, problem.gap(problem.look(seen, found), targets)
        missed = _where(believed & (margin > 0)) if problem.precision and problem.stop else alive[:0]
        if missed.numel():
            part = replace(
                problem, precision=None, inputs=take(given, missed), targets=targets[missed], mask=take(masks, missed),
                forwards=0, backwards=0,
            )  # fmt: skip
            again, low, taken, _ = _run(part, net, keys[missed], threat, take(found, missed))
            problem.forwards, problem.backwards = problem.forwards + part.forwards, problem.backwards + part.backwards
            found = {n: x.index_copy(0, missed, again[n]) for n, x in found.items()}
            margin, steps = margin.index_copy(0, missed, low), steps.index_copy(0, missed, taken)
    return found, margin, steps, (margin <= 0) & threat.contains({**given, **found}, given, masks)


def _climb(
    problem: Problem, seen: View, keys: Tensor, threat: ThreatModel, alive: Tensor, start: Inputs | None
) -> tuple[Inputs, Tensor, Tensor, Tensor]:
    """Search the samples `alive`; returns by sample the best point, its score, its margin and the steps it took."""
    plan, notes = problem.plan, Notes() if problem.traced else None
    follows = plan.step.gradient
    rows, width = begin(problem, seen, keys, threat, alive, start)
    best, taken = Best(problem, rows), torch.full_like(rows.index, plan.steps)
    for step in range(plan.steps):
        shown = rows.shown()
        leaves = {n: x.detach().requires_grad_(follows) for n, x in shown.items()}
        with nullcontext() if follows else torch.no_grad():
            logits = rows.view.logits(leaves)
        problem.forwards += rows.index.numel()
        if step == 0:
            problem.meet(logits, rows.targets)
        said, stay = logits.detach(), None
        if problem.examine:
            best.see(rows, shown, said)
        if problem.stop and not problem.all_right(said, rows.targets):
            gap = problem.gap(said, rows.targets)
            fooled = rows.fooled(gap, width, alive.numel())
            left = _where(fooled)
            if left.numel():
                taken.index_fill_(0, best.leave(rows, left, shown, gap), step)
                stay = _where(~fooled)
                if not stay.numel():
                    break
        loss, gradient = _ascent(problem, rows, logits, leaves, check=step == 0)
        problem.backwards += rows.index.numel() if follows else 0
        if notes:
            notes.loss.append(loss)
            notes.gradient.append(gradient)
            notes.margin.append(problem.gap(said, rows.targets))
        if stay is not None:
            rows, gradient = take(rows, stay), take(gradient, stay)
            loss = loss.index_select(0, stay) if loss.numel() else loss
        gradient = threat.led(rows.point, rows.balls, gradient)
        rows.point, rows.memory = plan.step.move(rows.memory, rows.point, gradient, loss, rows.balls, step)
        rows.point = threat.couple(rows.point, rows.balls, gradient or None)
        del leaves, logits, said, loss, gradient  # or they stand beside the next forward pass in memory
    else:
        shown = rows.shown()
        if problem.examine:
            with torch.no_grad():
                logits = rows.view.logits(shown)
            problem.forwards += rows.index.numel()
            problem.meet(logits, rows.targets)
            best.see(rows, shown, logits)
            best.settle(rows)
            if notes:
                notes.margin.append(problem.gap(logits, rows.targets))
        else:
            best.point = shown
    problem.trace = notes
    if width == 1:
        return best.point, best.score, best.margin, taken
    chosen = best.score.view(-1, width).argmin(dim=1) + torch.arange(alive.numel(), device=alive.device) * width
    return take(best.point, chosen), best.score[chosen], best.margin[chosen], taken[chosen]


def _ascent(problem: Problem, rows: Rows, logits: Tensor, leaves: Inputs, check: bool) -> tuple[Tensor, Inputs]:
    """The objective by row and its gradients at the attacked inputs alone, as far as the step rule needs them."""
    assert problem.task is not None
    plan, goal = problem.plan, Goal(rows.targets, problem.task, problem.targeted, rows.rival)
    said, slope = logits.detach(), SLOPES.get(plan.climbed)
    if not plan.step.gradient:
        return plan.climbed(said, goal), {}
    if slope is None:
        loss = plan.climbed(logits, goal)
        return loss.detach(), _gradient(loss.sum(), leaves, rows.view.mask, check)
    loss = plan.climbed(said, goal) if plan.step.loss or problem.traced else said.new_empty(0)
    # A sum, not grad_outputs: for those, torch compares symbolic shapes, and imports sympy (seconds) to do so.
    return loss, _gradient((logits * slope(said, goal)).sum(), leaves, rows.view.mask, check)


def _gradient(output: Tensor, leaves: Inputs, mask: Mask, check: bool) -> Inputs:
    """Gradients of a number at the leaves, 0 where it does not depend on one; with `check`, raises ModelError there,
    unless no row has anything of that modality, whose branch a model may then skip."""
    found: Any = (None,) * len(leaves)
    if output.requires_grad:
        found = torch.autograd.grad(output, list(leaves.values()), allow_unused=True)
    cut = [n for n, g in zip(leaves, found, strict=True) if g is None]
    for name in cut if check else ():
        there = present(mask, name, len(leaves[name]))
        if there is None or bool(there.any()):
            raise ModelError(
                f"the model yields no gradient for {name!r}: it ignores this input or detaches it; "
                f"leave it out of the threat model, or attack through a differentiable stand-in"
            )
    return {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(leaves.items(), found, strict=True)}


def _plain(x: Tensor) -> Tensor:
    """Detached; a copy where the tensor was made under inference mode, which autograd cannot use."""
    return x.clone() if x.is_inference() else x.detach()


def _where(flags: Tensor) -> Tensor:
    return flags.nonzero().squeeze(1)
