"""The worst of an ensemble: attacks, cheap ones first, on each modality alone and on those touched at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossguard.attacks.arguments import check_arguments
from crossguard.attacks.result import AttackResult
from crossguard.attacks.stages import EFFORTS, Ids, Stage, Worst, run_stage
from crossguard.core.batch import Inputs, Mask, flat, present, take
from crossguard.core.errors import ThreatError
from crossguard.core.model import borrowed, forward
from crossguard.core.task import Task, settle_task
from crossguard.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class WorstCase(AttackResult):
    """An AttackResult that says of each sample who broke it: `by` (N,) into the names `stages` ("clean" first: it was
    wrong already; -1: nobody), `within` (N,) into `conditions`, the sets of modalities that were attacked at once (-1:
    none was), and `cost`: sample-"forwards" and -"backwards" (N,) spent on it. `steps` is those of all stages."""

    stages: tuple[str, ...]
    by: Tensor
    conditions: tuple[tuple[str, ...], ...]
    within: Tensor
    cost: dict[str, Tensor]

    @cached_property
    def touched(self) -> dict[str, Tensor]:
        """Modality -> (N,) whether the attack changed it."""
        return {n: flat(self.inputs[n] != self.clean[n]).any(dim=1) for n in self.threat.names}


def worst_case(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    task: Task | None = None,
    mask: Mapping[str, Tensor] | None = None,
    ids: Ids = None,
    seed: int = 0,
    effort: Literal["quick", "standard", "thorough"] = "thorough",
) -> WorstCase:
    """Break each sample in any way that `threat` allows, by stages of growing cost on those that still stand.

    Every stage attacks each modality alone, then every set that may be touched at once; such a joint attack starts
    from what single ones came to, the best of them or all at once, so by sample it is never weaker. `effort`: "quick"
    and "standard" are short APGD; "thorough" is an ensemble in the manner of AutoAttack (Croce and Hein, ICML 2020),
    with a short margin attack first, fewer steps and no FAB (our choice). Of 400 digits AutoAttack leaves 262 (plain),
    252 (adversarially trained), 327 (interval bounds), 309 (MLP), 257 (recurrent), 252 (logits x 1e4), 313 (rounded
    input); this leaves 262, 252, 327, 308, 257, 252, 301 for a quarter of the forwards: `benchmarks/worst_case.py
    --peers`. `cost` omits what it takes to see whether branches can be run apart. Raises InputError, ThreatError or
    ModelError before any attack.
    """
    check_arguments(inputs, targets, threat, mask, ids, task)
    if effort not in EFFORTS:
        raise ThreatError(f"unknown effort {effort!r}; known: {sorted(EFFORTS)}")
    inputs, masks = {n: x.detach() for n, x in inputs.items()}, dict(mask or {})
    stages = EFFORTS[effort]
    with borrowed(model, seed, targets.device) as net:
        hunt = _begin(net, inputs, targets, threat.settled(inputs), task, masks, ids, seed)
        for turn, stage in enumerate(stages, start=1):
            hunt.run(turn, stage)
    worst, found = hunt.worst, {**inputs, **hunt.worst.point}
    fooled = (worst.margin <= 0) & threat.contains(found, inputs, masks)
    return WorstCase(
        found, fooled, worst.margin.to(hunt.dtype), hunt.steps, hunt.paid[0], hunt.paid[1], inputs, masks, threat,
        stages=("clean", *(stage.name for stage in stages)), by=torch.where(fooled, worst.by, -1),
        conditions=tuple(hunt.known), within=torch.where(fooled, hunt.within, -1),
        cost={"forwards": worst.forwards, "backwards": worst.backwards},
    )  # fmt: skip


def _begin(
    net: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, task: Task | None, mask: Mask, ids: Ids,
    seed: int,
) -> _Hunt:  # fmt: skip
    """The hunt after a look at the clean samples, which settles the task; and at the gradients of the first one."""
    with torch.no_grad():
        logits = forward(net, inputs, mask).logits
    task = settle_task(task, targets, logits)
    margin = task.margin(logits, targets)
    subsets = [subset.names for subset in threat.subsets()]
    singles = [(n,) for n in threat.names] if any(len(names) > 1 for names in subsets) else []
    known = {names: Worst.begin(inputs, names, margin) for names in (*singles, *subsets)}
    worst = Worst.begin(inputs, threat.names, margin)
    worst.by = torch.where(margin > 0, -1, 0)
    worst.forwards = worst.forwards + 1
    none = torch.full_like(worst.by, -1)
    blind, looks = _blind(net, inputs, mask, threat.names)
    return _Hunt(
        net, inputs, targets, threat, task, mask, ids, seed, blind, known, worst, none, none + 1,
        margin.dtype, (len(targets) + looks, looks),
    )  # fmt: skip


def _blind(net: nn.Module, inputs: Inputs, mask: Mask, names: tuple[str, ...]) -> tuple[frozenset[str], int]:
    """Modalities that the model's graph lets no gradient through, and the passes spent to see it.

    That is no matter of data, so one sample tells (that has the modality, since a model may skip the branch of what is
    absent), and batches cannot differ; where a gradient is merely zero, as behind rounding, random search at the end is
    what is left.
    """
    first = {n: _first(mask, n, len(inputs[n])) for n in names}
    first = {n: i for n, i in first.items() if i is not None}
    if not first:
        return frozenset(), 0
    chosen = torch.tensor(sorted(set(first.values())), device=inputs[names[0]].device)
    some = take(inputs, chosen)
    leaves = {n: some[n].clone().requires_grad_() for n in first}
    logits = forward(net, {**some, **leaves}, take(mask, chosen)).logits
    if not logits.requires_grad:
        return frozenset(first), len(chosen)
    slopes: Any = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    return frozenset(n for n, slope in zip(leaves, slopes, strict=True) if slope is None), len(chosen)


def _first(mask: Mask, name: str, samples: int) -> int | None:
    """The first sample that has a modality; None where none has."""
    there = present(mask, name, samples)
    if there is None:
        return 0 if samples else None
    return int(there.int().argmax()) if bool(there.any()) else None


@dataclass
class _Hunt:
    """What stays the same over a worst case, and the worst points of each condition and of all of them together."""

    net: nn.Module
    inputs: Inputs
    targets: Tensor
    threat: ThreatModel
    task: Task
    mask: Mask
    ids: Ids
    seed: int
    blind: frozenset[str]
    known: dict[tuple[str, ...], Worst]
    worst: Worst
    within: Tensor
    steps: Tensor
    dtype: torch.dtype
    paid: tuple[int, int]

    def run(self, turn: int, stage: Stage) -> None:
        """One stage in every condition, on the samples that still stand."""
        settled = stage.settled(self.task)
        for names, known in self.known.items() if settled else ():
            if len(names) > 1:
                self._gather(turn, names)
            rows = self._standing()
            if settled is None or not rows.numel():
                return
            # Later stages start at random, so that they can see past what the first one found.
            start = take(known.point, rows) if turn == 1 and len(names) > 1 else None
            found = run_stage(
                settled, self.net, self.inputs, self.targets, self.threat.only(*names), task=self.task, mask=self.mask,
                ids=self.ids, seed=self.seed + turn - 1, rows=rows, start=start, blind=self.blind,
            )  # fmt: skip
            self.steps = self.steps.index_add(0, rows, found.steps)
            self._pay(rows, found.forwards, found.backwards, found.paid)
            self._keep(turn, names, rows, found.inputs, found.margin)

    def _gather(self, turn: int, names: tuple[str, ...]) -> None:
        """Let a joint condition know the best that each modality alone came to, and all of it at once."""
        rows, singles = self._standing(), [self.known[(n,)] for n in names]
        if not rows.numel():
            return
        given = take(self.inputs, rows)
        for single in singles:
            self.known[names].improve(rows, {**given, **take(single.point, rows)}, single.margin[rows], turn)
        both = {**given, **{n: x[rows] for single in singles for n, x in single.point.items()}}
        with torch.no_grad():
            logits = forward(self.net, both, take(self.mask, rows)).logits
        self._pay(rows, 1, 0, (len(rows), 0))
        self._keep(turn, names, rows, both, self.task.margin(logits, self.targets[rows]))

    def _standing(self) -> Tensor:
        return (self.worst.margin > 0).nonzero().squeeze(1)

    def _pay(self, rows: Tensor, forwards: Tensor | int, backwards: Tensor | int, paid: tuple[int, int]) -> None:
        self.worst.pay(rows, forwards, backwards)
        self.paid = (self.paid[0] + paid[0], self.paid[1] + paid[1])

    def _keep(self, turn: int, names: tuple[str, ...], rows: Tensor, found: Inputs, margin: Tensor) -> None:
        """Remember what is worse and inside the budgets, for the condition and for the sample."""
        inside = self.threat.only(*names).contains(found, take(self.inputs, rows), take(self.mask, rows))
        margin = torch.where(inside, margin, torch.inf)
        self.known[names].improve(rows, found, margin, turn)
        better = self.worst.improve(rows, found, margin, turn)
        place = torch.full_like(rows, list(self.known).index(names))
        self.within = self.within.index_copy(0, rows, torch.where(better, place, self.within[rows]))
