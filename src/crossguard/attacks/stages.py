"""The stages of an ensemble of attacks, cheap ones first, and how one of them is run on the samples that are left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from crossguard.attacks.apgd import apgd, apgd_t
from crossguard.attacks.result import AttackResult
from crossguard.attacks.square import square
from crossguard.core.batch import Inputs, Mask, take
from crossguard.core.task import SingleLabel, Task
from crossguard.threat import ThreatModel
from crossguard.threat.ball import spread

Ids: TypeAlias = Sequence[str | int] | Tensor | None


@dataclass(frozen=True)
class Stage:
    """An attack of `steps` steps (for Square: queries) with its further options; `name` is how records call it."""

    name: str
    attack: Callable[..., AttackResult]
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def follows(self) -> bool:
        """Whether it follows gradients."""
        return self.attack is not square

    def settled(self, task: Task) -> Stage | None:
        """The stage for this task: ranks of wrong classes that do not exist are dropped; None where none is left."""
        if "rivals" not in self.options:
            return self
        # One output alone has no wrong class; what aims at the first one then lowers the margin.
        wrong = max(1, task.classes - isinstance(task, SingleLabel))
        ranks = tuple(rank for rank in self.options["rivals"] if rank < wrong)
        return replace(self, options={**self.options, "rivals": ranks}) if ranks else None

    def changed(self, steps: int | None, restarts: int) -> Stage:
        """With `steps` of its own kind where it follows gradients, and so many random starts."""
        if not self.follows:
            return self
        options = {**self.options, "restarts": restarts} if restarts > 1 else self.options
        return replace(self, steps=steps or self.steps, options=options)

    def run(self, *given: Any, **options: Any) -> AttackResult:
        """The attack as `attack(model, inputs, targets, threat, **options)`."""
        length = "steps" if self.follows else "queries"
        return self.attack(*given, **{length: self.steps}, **self.options, **options)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        options = {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()}
        return {"name": self.name, "steps": self.steps, **options}

    def cost(self, result: AttackResult) -> tuple[Tensor, Tensor]:
        """(N,) forwards and backwards of each sample, by when it left; a look before and one after are among them."""
        rows = self.options.get("restarts", 1) * max(1, len(self.options.get("rivals", ())))
        looks = rows * (result.steps + 1)
        slopes = rows * (result.steps + 1).clamp_max(self.steps)
        return looks + 2, slopes if self.follows else torch.zeros_like(slopes)


def climb(objective: str, steps: int, rivals: Sequence[int] = tuple(range(9))) -> Stage:
    """APGD on an objective; those that aim at wrong classes take each of the ranks `rivals`."""
    if objective.startswith("targeted_"):
        ranks = f"{rivals[0]}" if len(rivals) == 1 else f"{rivals[0]}-{rivals[-1]}"
        options = {"objective": objective, "rivals": tuple(rivals)}
        return Stage(f"apgd {objective} {ranks}", apgd_t, steps, options)
    return Stage(f"apgd {objective}", apgd, steps, {"objective": objective})


# Chosen by what each stage leaves over on the models of benchmarks/worst_case.py, which prints it: 100 steps for each
# rival and 3000 queries broke nobody more there; the short margin attack breaks most of those who fall to gradients.
EFFORTS: dict[str, tuple[Stage, ...]] = {
    "quick": (climb("cross_entropy", 10), climb("margin", 10)),
    "standard": (climb("margin", 20), climb("cross_entropy", 10), climb("targeted_dlr", 10, rivals=(0, 1, 2))),
    "thorough": (
        climb("margin", 20),
        climb("cross_entropy", 50),
        climb("targeted_dlr", 50, rivals=range(3)),
        climb("targeted_dlr", 20, rivals=range(3, 9)),
        Stage("square", square, 1500),
    ),
}


@dataclass
class Worst:
    """The worst point so far of each of N samples: its margin, which stage found it (-1: none yet), and what the
    search has cost in forwards and backwards of that sample."""

    point: Inputs
    margin: Tensor
    by: Tensor
    forwards: Tensor
    backwards: Tensor

    @classmethod
    def begin(cls, inputs: Inputs, names: Sequence[str], margin: Tensor) -> Worst:
        """At the clean samples."""
        none = torch.zeros_like(margin, dtype=torch.int64)
        return cls({n: inputs[n].clone() for n in names}, margin.double(), none - 1, none, none.clone())

    def improve(self, rows: Tensor, point: Inputs, margin: Tensor, by: Tensor | int) -> Tensor:
        """Keep what is worse for the model than what was known; returns the flags of the `rows` that it is."""
        margin = margin.double()
        better = margin < self.margin[rows]
        source = torch.as_tensor(by, device=rows.device).expand_as(rows)
        for n, x in self.point.items():
            old = x.index_select(0, rows)
            self.point[n] = x.index_copy(0, rows, torch.where(spread(better, old), point[n], old))
        self.margin = self.margin.index_copy(0, rows, torch.where(better, margin, self.margin[rows]))
        self.by = self.by.index_copy(0, rows, torch.where(better, source, self.by[rows]))
        return better

    def pay(self, rows: Tensor, forwards: Tensor | int, backwards: Tensor | int = 0) -> None:
        """Add to what samples have cost."""
        one = torch.ones_like(rows)
        self.forwards = self.forwards.index_add(0, rows, one * forwards)
        self.backwards = self.backwards.index_add(0, rows, one * backwards)


@dataclass(frozen=True)
class Outcome:
    """What a stage found for its rows: whole `inputs`, `margin`, `steps`, cost by row, and sample-passes in all."""

    inputs: Inputs
    margin: Tensor
    steps: Tensor
    forwards: Tensor
    backwards: Tensor
    paid: tuple[int, int]


def run_stage(
    stage: Stage,
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    task: Task,
    mask: Mask,
    ids: Ids,
    seed: int,
    rows: Tensor,
    start: Inputs | None = None,
    blind: Collection[str] = (),
) -> Outcome:
    """Run `stage` on the samples `rows`, from `start` (by row) if given.

    `blind` are modalities that no gradient reaches: a stage that follows gradients leaves them to a random search of as
    many queries, and goes on with the others from there (our choice).
    """
    named = ids if ids is None or isinstance(ids, Tensor) else [ids[i] for i in rows.tolist()]
    named = named[rows] if isinstance(named, Tensor) else named
    inputs, targets, mask = take(inputs, rows), targets[rows], take(mask, rows)
    unseen = [n for n in threat.names if n in blind] if stage.follows else []
    seen = [n for n in threat.names if n not in unseen]
    parts = [(Stage(stage.name, square, stage.steps), unseen)] if unseen else []
    found: Outcome | None = None
    for part, names in [*parts, (stage, seen)] if seen else parts:
        options = {"task": task, "mask": mask, "ids": named, "seed": seed, "start": start}
        result = part.run(model, inputs if found is None else found.inputs, targets, threat.only(*names), **options)
        forwards, backwards = part.cost(result)
        steps, paid = result.steps, (result.forwards, result.backwards)
        if found is not None:
            steps, forwards, backwards = steps + found.steps, forwards + found.forwards, backwards + found.backwards
            paid = (paid[0] + found.paid[0], paid[1] + found.paid[1])
        found = Outcome(result.inputs, result.margin, steps, forwards, backwards, paid)
    assert found is not None, "a threat without modalities has nothing to attack"
    return found
