"""The attacks of an evaluation on one batch: PGD by every objective on survivors, carried from scale to scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.attacks import AttackResult, pgd, square
from crossguard.attacks.objective import Goal
from crossguard.core import Batch, Inputs, Task, forward
from crossguard.evaluation.protocol import Protocol
from crossguard.evaluation.work import Work
from crossguard.threat import ThreatModel
from crossguard.threat.budget import spread

# Steps of 2.5 / steps of the budget: any point of the ball can be reached, whatever the number of steps.
REACH = 2.5


@dataclass(frozen=True)
class Case:
    """One batch under one threat model. `blind`: modalities that matter but yield no gradient, so that only random
    search is left; `ignored`: modalities that the model does not look at."""

    model: nn.Module
    batch: Batch
    threat: ThreatModel
    task: Task
    protocol: Protocol
    seed: int
    blind: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    work: Work = field(default_factory=Work)

    def options(self, batch: Batch, seed: int) -> dict[str, Any]:
        """What every attack of this evaluation is told."""
        return {"task": self.task, "mask": batch.mask, "ids": batch.ids, "seed": seed}

    def threats(self) -> dict[str, ThreatModel]:
        """Condition -> threat model, for the conditions that are searched."""
        singles = {f"only:{m}": self.threat.only(m) for m in self.threat.names}
        return {**singles, "joint": self.threat}

    def alone(self, threat: ThreatModel) -> bool:
        """Whether at most one modality that matters may be touched at once."""
        return threat.at_most == 1 or len(set(threat.names) - self.ignored) <= 1


@dataclass
class Track:
    """The best point so far of a condition, by sample: its margin, and the scale at which the sample was fooled."""

    point: Inputs
    margin: Tensor
    broken: Tensor
    outside: int = 0

    @classmethod
    def begin(cls, case: Case, threat: ThreatModel, margin: Tensor) -> Track:
        """At the clean samples."""
        broken = torch.where(margin > 0, torch.inf, 0.0).float()
        return cls({m: case.batch.inputs[m].clone() for m in threat.names}, margin.double(), broken)

    @property
    def alive(self) -> Tensor:
        """Rows that were not fooled yet."""
        return self.broken.isinf().nonzero().squeeze(1)

    def improve(self, rows: Tensor, point: Inputs, margin: Tensor, scale: float) -> None:
        """Keep what is worse for the model than what was known."""
        better = margin < self.margin[rows]
        rows, margin = rows[better], margin[better].double()
        for m in self.point:
            self.point[m][rows] = point[m][better]
        self.margin[rows] = margin
        fooled = rows[margin <= 0]
        self.broken[fooled] = self.broken[fooled].clamp(max=scale)


def ranking(logits: Tensor, goal: Goal) -> Tensor:
    """(N,) log(1 + sum over pairs of exp(absent - present)), a bound on the wrongly ranked pairs (LSEP, Li et al.,
    CVPR 2017), which is what mAP and GAP count. Without a present (absent) class the others are ranked against 0, as
    in the margin: high scores of a sample without any label cost precision too."""
    present = goal.targets.bool()
    # A finite fill: the gradient of an empty logsumexp would be NaN.
    absent = logits.masked_fill(present, -1e4).logsumexp(dim=1)
    missed = (-logits).masked_fill(~present, -1e4).logsumexp(dim=1)
    loss = F.softplus(torch.where(present.all(dim=1), 0.0, absent) + torch.where(present.any(dim=1), missed, 0.0))
    return -loss if goal.targeted else loss


def strike(
    case: Case,
    condition: str,
    threat: ThreatModel,
    rows: Tensor,
    start: Inputs | None,
    *,
    steps: int,
    objectives: tuple[str, ...],
    restarts: int = 1,
    seed: int | None = None,
) -> tuple[Inputs, Tensor]:
    """Attack `rows` of the batch by each objective in turn, survivors only; returns points and margins, row by row.

    `start` is where the first objective climbs from; the others start at random, so that they can see past it.
    """
    part = case.batch.take(rows.tolist())
    best = {m: part.inputs[m].clone() for m in threat.names}
    margin = torch.full((len(part),), torch.inf, device=rows.device, dtype=torch.float64)
    with case.work.timed(condition):
        for subset in threat.subsets():
            for turn, objective in enumerate(objectives):
                left = (margin > 0).nonzero().squeeze(1)
                if not left.numel():
                    break
                first = None if start is None or turn else {m: start[m][left] for m in threat.names}
                result = _attack(
                    case,
                    condition,
                    subset,
                    part.take(left.tolist()),
                    first,
                    steps=steps,
                    objective=objective,
                    restarts=restarts,
                    seed=(case.seed if seed is None else seed) + turn,
                )
                found = result.margin.to(margin.dtype)
                better = found < margin[left]
                for m in threat.names:
                    best[m][left[better]] = result.inputs[m][better]
                margin[left] = torch.minimum(margin[left], found)
    return best, margin


def _attack(
    case: Case,
    condition: str,
    threat: ThreatModel,
    part: Batch,
    start: Inputs | None,
    *,
    steps: int,
    objective: str,
    restarts: int,
    seed: int,
) -> AttackResult:
    """PGD where there are gradients, random search before it where there are none."""
    blind = [m for m in threat.names if m in case.blind]
    seen = [m for m in threat.names if m not in case.blind | case.ignored]
    inputs = part.inputs
    options: dict[str, Any] = case.options(part, seed)
    result: AttackResult | None = None
    if blind or not seen:
        result = square(case.model, inputs, part.targets, threat.only(*blind), queries=steps, start=start, **options)
        case.work.add(condition, result.forwards, result.backwards)
        inputs = result.inputs
    if seen:
        options |= {"steps": steps, "step_size": REACH / steps, "objective": objective, "restarts": restarts}
        result = pgd(case.model, inputs, part.targets, threat.only(*seen), start=start, **options)
        case.work.add(condition, result.forwards, result.backwards)
    assert result is not None
    return result


def advance(case: Case, condition: str, track: Track, threat: ThreatModel, scale: float) -> None:
    """Attack the survivors of a condition at one scale, from where the smaller scale left them.

    A success counts only inside the budgets; smaller budgets lie inside larger ones, so nobody recovers.
    """
    rows = track.alive
    if not rows.numel() or not set(threat.names) - case.ignored:
        return
    budget, protocol = threat.scaled(scale), case.protocol
    clean = case.batch.take(rows.tolist())
    moved = any(bool((track.point[m][rows] != clean.inputs[m]).any()) for m in threat.names)
    point, margin = strike(
        case,
        condition,
        budget,
        rows,
        {m: track.point[m][rows] for m in threat.names} if moved else None,
        steps=protocol.steps if scale == 1 else protocol.curve_steps,
        objectives=protocol.objectives if scale == 1 else protocol.objectives[-1:],
        restarts=protocol.restarts if scale == 1 else 1,
    )
    inside = budget.contains({**clean.inputs, **point}, clean.inputs, clean.mask)
    track.outside += int(((margin <= 0) & ~inside).sum())
    track.improve(rows, point, torch.where(inside, margin, torch.inf), scale)


def combine(case: Case, joint: Track, singles: list[Track], scale: float) -> None:
    """Let the joint attack start from the best single result, or from all of them at once: never weaker by sample."""
    inputs = case.batch.inputs
    for single in singles:
        rows = joint.alive
        point = {m: single.point.get(m, inputs[m])[rows] for m in joint.point}
        joint.improve(rows, point, single.margin[rows], scale)
    rows = joint.alive
    if case.threat.at_most is not None or not rows.numel() or case.alone(case.threat):
        return
    part = case.batch.take(rows.tolist())
    point = {m: track.point[m][rows] for track in singles for m in track.point}
    with case.work.timed("joint"), torch.no_grad():
        logits = forward(case.model, {**part.inputs, **point}, part.mask).logits
    case.work.add("joint", len(part))
    joint.improve(rows, point, case.task.margin(logits, part.targets), scale)


def climb(case: Case, tracks: dict[str, Track], scale: float) -> None:
    """All searched conditions at one scale: each modality alone, then all together."""
    singles = [track for condition, track in tracks.items() if condition != "joint"]
    for condition, threat in case.threats().items():
        if condition == "joint":
            combine(case, tracks["joint"], singles, scale)
            if not case.alone(threat):
                advance(case, "joint", tracks["joint"], threat, scale)
        else:
            advance(case, condition, tracks[condition], threat, scale)


def rank(case: Case, condition: str, threat: ThreatModel, known: Sequence[Inputs]) -> tuple[Inputs, Tensor]:
    """Points for metrics of the ranking, with their (N,) ranking losses: every sample climbs its own to the end, fooled
    or not, from the worst of the points `known`; joint knows those of single modalities, so it is never weaker."""
    part, protocol = case.batch, case.protocol

    def look(inputs: Inputs) -> Tensor:
        case.work.add(condition, len(part))
        with torch.no_grad():
            return ranking(forward(case.model, inputs, part.mask).logits, Goal(part.targets, case.task))

    def worse(best: Inputs, loss: Tensor, point: Inputs) -> tuple[Inputs, Tensor]:
        found = look(point)
        flags = found > loss
        return {m: torch.where(spread(flags, x), point[m], x) for m, x in best.items()}, torch.fmax(found, loss)

    with case.work.timed(condition):
        best, loss = known[0], look(known[0])
        for point in known[1:]:
            best, loss = worse(best, loss, point)
        for subset in [] if condition == "joint" and case.alone(threat) else threat.subsets():
            seen = [m for m in subset.names if m not in case.blind | case.ignored]
            if not seen:
                continue
            fixed = {m: best[m] if m in subset.names and m not in seen else x for m, x in part.inputs.items()}
            options: dict[str, Any] = case.options(part, case.seed) | {"stop": "never", "select": "last"}
            options |= {"steps": protocol.steps, "step_size": REACH / protocol.steps, "objective": ranking}
            result = pgd(case.model, fixed, part.targets, subset.only(*seen), start=best, **options)
            case.work.add(condition, result.forwards, result.backwards)
            best, loss = worse(best, loss, result.inputs)
    return best, loss
