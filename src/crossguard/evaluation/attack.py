"""The attacks of an evaluation on one batch: the stages of worst_case on survivors, carried from scale to scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.attacks import attention_drift, pgd
from crossguard.attacks.objective import OBJECTIVES, Goal
from crossguard.attacks.result import AttackResult
from crossguard.attacks.stages import Stage, Worst, run_stage
from crossguard.core import Batch, Inputs, Task, forward, take
from crossguard.diagnostics import Failure
from crossguard.evaluation.protocol import Protocol
from crossguard.evaluation.remedies import relieve
from crossguard.evaluation.work import Work
from crossguard.threat import ThreatModel
from crossguard.threat.budget import spread

# Steps of 2.5 / steps of the budget: any point of the ball can be reached, whatever the number of steps.
REACH = 2.5
# What broke a sample in the joint condition without a search of its own: the points of single modalities, all at once.
TOGETHER = "singles together"


@dataclass(frozen=True)
class Case:
    """One batch under one threat model. `blind`: modalities that matter but yield no gradient, so that only random
    search is left; `ignored`: modalities that the model does not look at in this batch; `failures`: where attacks fail,
    and what helps; `view`: what the model offers to attackers in place of itself."""

    model: nn.Module
    batch: Batch
    threat: ThreatModel
    task: Task
    protocol: Protocol
    seed: int
    blind: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    work: Work = field(default_factory=Work)
    view: nn.Module | None = None

    @property
    def attacked(self) -> nn.Module:
        """What searches see and follow."""
        return self.model if self.view is None else self.view

    def confirmed(self, part: Batch, inputs: Inputs, margin: Tensor) -> tuple[Tensor, int]:
        """(N,) margins of the model itself at points that a search found, and the passes a sample it took to see."""
        if self.view is None:
            return margin, 0
        with torch.no_grad():
            logits = forward(self.model, inputs, part.mask).logits
        return self.task.margin(logits, part.targets), 1

    def options(self, batch: Batch, seed: int) -> dict[str, Any]:
        """What every attack of this evaluation is told."""
        return {"task": self.task, "mask": batch.mask, "ids": batch.ids, "seed": seed}

    @cached_property
    def hands(self) -> list[str]:
        """What may have broken a sample, by name."""
        stages = [stage.name for stage in (*self.protocol.stages, self.protocol.curve)]
        remedies = [name for failure in self.failures for name in failure.remedies]
        return list(dict.fromkeys(["clean", "noise", TOGETHER, *stages, *remedies]))

    def threats(self) -> dict[str, ThreatModel]:
        """Condition -> threat model, for the conditions that are searched."""
        threat = self.threat.settled(self.batch.inputs)
        return {**{f"only:{m}": threat.only(m) for m in threat.names}, "joint": threat}

    def alone(self, threat: ThreatModel) -> bool:
        """Whether at most one modality that matters may be touched at once."""
        return threat.at_most == 1 or len(set(threat.names) - self.ignored) <= 1


@dataclass
class Track(Worst):
    """The worst point so far of a condition, and the scale at which each sample was fooled; `by` counts in the case's
    `hands`."""

    broken: Tensor
    outside: int = 0

    @classmethod
    def at(cls, case: Case, threat: ThreatModel, margin: Tensor) -> Track:
        """At the clean samples."""
        worst = Worst.begin(case.batch.inputs, threat.names, margin)
        worst.by = torch.full_like(worst.by, case.hands.index("clean"))
        return cls(**vars(worst), broken=torch.where(margin > 0, torch.inf, 0.0).float())

    @property
    def alive(self) -> Tensor:
        """Rows that were not fooled yet."""
        return self.broken.isinf().nonzero().squeeze(1)

    def reach(self, rows: Tensor, point: Inputs, margin: Tensor, by: Tensor | int, scale: float) -> None:
        """Keep what is worse for the model than what was known, and note the scale where it fools."""
        better = self.improve(rows, point, margin, by)
        fooled = rows[better & (margin <= 0)]
        self.broken[fooled] = self.broken[fooled].clamp(max=scale)


def strike(
    case: Case,
    condition: str,
    threat: ThreatModel,
    rows: Tensor,
    start: Inputs | None,
    *,
    stages: Sequence[Stage],
    seed: int | None = None,
) -> Worst:
    """Attack `rows` of the batch by each stage in turn, survivors only; what is found is row by row.

    `start` is where the first stage climbs from; the others start at random, so that they can see past it.
    """
    part = case.batch.take(rows.tolist())
    # A small scale may leave a budget nothing (half of one value): its modality then stays as it is.
    worst = Worst.begin(part.inputs, tuple(threat.declared), torch.full_like(rows, torch.inf, dtype=torch.float64))
    turns = [(turn, s) for turn, stage in enumerate(stages) if (s := stage.settled(case.task)) is not None]
    with case.work.timed(condition):
        for subset in threat.subsets():
            names = [m for m in subset.names if m not in case.ignored]
            for turn, stage in turns if names else ():
                left = (worst.margin > 0).nonzero().squeeze(1)
                if not left.numel():
                    break
                found = run_stage(
                    stage, case.attacked, part.inputs, part.targets, subset.only(*names), task=case.task,
                    mask=part.mask, ids=part.ids, seed=(case.seed if seed is None else seed) + turn, rows=left,
                    start=None if start is None or turn else take(start, left), blind=case.blind,
                )  # fmt: skip
                margin, looks = case.confirmed(part.take(left.tolist()), found.inputs, found.margin)
                case.work.add(condition, found.paid[0] + looks * len(left), found.paid[1])
                worst.pay(left, found.forwards + looks, found.backwards)
                worst.improve(left, found.inputs, margin, case.hands.index(stage.name))
    return worst


def advance(case: Case, condition: str, track: Track, threat: ThreatModel, scale: float) -> None:
    """Attack the survivors of a condition at one scale, from where the smaller scale left them.

    A success counts only inside the budgets; smaller budgets lie inside larger ones, so nobody recovers.
    """
    rows = track.alive
    if not rows.numel() or not set(threat.names) - case.ignored:
        return
    budget, protocol = threat.scaled(scale), case.protocol
    clean = case.batch.take(rows.tolist())
    point = take(track.point, rows)
    moved = any(bool((point[m] != clean.inputs[m]).any()) for m in threat.names)
    found = strike(
        case,
        condition,
        budget,
        rows,
        {m: point[m] for m in budget.names} if moved else None,
        stages=protocol.stages if scale == 1 else (protocol.curve,),
    )
    steps = protocol.longest if scale == 1 else protocol.curve_steps
    relieve(case, condition, budget, rows, found, steps=steps, final=scale == 1)
    inside = budget.contains({**clean.inputs, **found.point}, clean.inputs, clean.mask)
    track.outside += int(((found.margin <= 0) & ~inside).sum())
    track.pay(rows, found.forwards, found.backwards)
    track.reach(rows, found.point, torch.where(inside, found.margin, torch.inf), found.by, scale)


def combine(case: Case, joint: Track, singles: list[Track], scale: float) -> None:
    """Let the joint attack start from the best single result, or from all of them at once: never weaker by sample."""
    inputs = case.batch.inputs
    for single in singles:
        rows = joint.alive
        point = {m: single.point.get(m, inputs[m])[rows] for m in joint.point}
        joint.reach(rows, point, single.margin[rows], single.by[rows], scale)
    rows = joint.alive
    if case.threat.at_most is not None or not rows.numel() or case.alone(case.threat):
        return
    part = case.batch.take(rows.tolist())
    point = {m: track.point[m][rows] for track in singles for m in track.point}
    with case.work.timed("joint"), torch.no_grad():
        logits = forward(case.model, {**part.inputs, **point}, part.mask).logits
    case.work.add("joint", len(part))
    joint.pay(rows, 1)
    joint.reach(rows, point, case.task.margin(logits, part.targets), case.hands.index(TOGETHER), scale)


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


def rank(
    case: Case, condition: str, threat: ThreatModel, known: Sequence[Inputs], objective: str
) -> tuple[Inputs, Tensor]:
    """Points for metrics of the ranking, with the (N,) values of `objective`: every sample climbs to the end, fooled or
    not, from the worst of the points `known`; joint knows those of single modalities, so it is never weaker."""
    part, steps, climbed = case.batch, case.protocol.longest, OBJECTIVES[objective]

    def look(inputs: Inputs) -> Tensor:
        case.work.add(condition, len(part))
        with torch.no_grad():
            loss = climbed(forward(case.model, inputs, part.mask).logits, Goal(part.targets, case.task))
        return loss.nan_to_num(torch.inf, torch.inf, -torch.inf)  # no answer is the worst one

    def worse(best: Inputs, loss: Tensor, point: Inputs) -> tuple[Inputs, Tensor]:
        found = look(point)
        flags = found > loss
        return {m: torch.where(spread(flags, x), point[m], x) for m, x in best.items()}, torch.maximum(found, loss)

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
            options |= {"steps": steps, "step_size": REACH / steps, "objective": objective}
            attacks: list[tuple[Callable[..., AttackResult], dict[str, Any]]] = [(pgd, {})]
            if case.protocol.attention_weight:
                attacks.append((attention_drift, {"weight": case.protocol.attention_weight}))
            for attack, further in attacks:
                args = case.attacked, fixed, part.targets, subset.only(*seen)
                result = attack(*args, start=best, **options, **further)
                case.work.add(condition, result.forwards, result.backwards)
                best, loss = worse(best, loss, result.inputs)
    return best, loss
